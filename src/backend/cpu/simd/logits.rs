//! Rows of logits as distributions: sums over a vocabulary. In f32 within a part of the row, in f64 from part to part.

use super::Isa;
use super::math::exp;
use super::vector::{Kernel, MAX_LANES, Vector};

/// ln of a probability that counts as none: e⁻¹⁰⁰ is beyond f32.
pub(in crate::backend) const LEAST: f64 = -100.0;
/// Numbers in a part: few enough for their sum to keep its digits.
const PART: usize = 1024;

/// Σ exp(x - max)
pub(in crate::backend) fn sum_exp(isa: Isa, x: &[f32], max: f32) -> f64 {
    isa.run(SumExp { x, max })
}

struct SumExp<'a> {
    x: &'a [f32],
    max: f32,
}

impl Kernel for SumExp<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f64 {
        let Self { x, max } = self;
        let mut sum = 0.0;
        for part in x.chunks(PART) {
            // SAFETY: the processor has the instruction set.
            sum += unsafe { sum_exp_of_part::<V>(part, max) };
        }
        sum
    }
}

/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn sum_exp_of_part<V: Vector>(x: &[f32], max: f32) -> f64 {
    // SAFETY: a chunk is a vector's worth of numbers, and the rest as the caller promises.
    unsafe {
        let vectors = x.chunks_exact(V::LEN);
        let rest = padded(vectors.remainder());
        let mut sum = exp(V::load(rest.as_ptr()).sub(V::splat(max)));
        for x in vectors {
            sum = sum.add(exp(V::load(x.as_ptr()).sub(V::splat(max))));
        }
        f64::from(sum.sum())
    }
}

/// What is left of a row behind its last whole vector, and logits of tokens that are impossible.
fn padded(rest: &[f32]) -> [f32; MAX_LANES] {
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// See [`Distribution::divergence`](crate::backend::Distribution::divergence).
pub(in crate::backend) fn divergence(isa: Isa, log_p: &[f32], floor: f32, logits: &[f32], log_sum_exp: f64) -> f64 {
    let nearest = log_sum_exp as f32;
    isa.run(Divergence { log_p, floor, logits, log_sum_exp: [nearest, (log_sum_exp - f64::from(nearest)) as f32] })
}

struct Divergence<'a> {
    log_p: &'a [f32],
    floor: f32,
    logits: &'a [f32],
    /// In f32, and what that lost: the difference of a likely token's logit to the first is exact.
    log_sum_exp: [f32; 2],
}

impl Kernel for Divergence<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f64 {
        let Self { log_p, floor, logits, log_sum_exp } = self;
        let mut sum = 0.0;
        for (log_p, logits) in log_p.chunks(PART).zip(logits.chunks(PART)) {
            // SAFETY: the processor has the instruction set.
            sum += unsafe { divergence_of_part::<V>(log_p, floor, logits, log_sum_exp) };
        }
        sum
    }
}

/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn divergence_of_part<V: Vector>(log_p: &[f32], floor: f32, logits: &[f32], log_sum_exp: [f32; 2]) -> f64 {
    // SAFETY: a chunk is a vector's worth of numbers, and the rest as the caller promises.
    unsafe {
        let (p, q) = (log_p.chunks_exact(V::LEN), logits.chunks_exact(V::LEN));
        let (p_rest, q_rest) = (padded(p.remainder()), padded(q.remainder()));
        let mut sum = term(V::load(p_rest.as_ptr()), V::load(q_rest.as_ptr()), floor, log_sum_exp);
        for (p, q) in p.zip(q) {
            sum = sum.add(term(V::load(p.as_ptr()), V::load(q.as_ptr()), floor, log_sum_exp));
        }
        f64::from(sum.sum())
    }
}

/// p · (e⁻ᵈ - 1 + d) with d = ln(p / q); where p is not above its floor, d counts if it is negative.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn term<V: Vector>(log_p: V, logit: V, floor: f32, log_sum_exp: [f32; 2]) -> V {
    /// Where the power series is no better than the difference.
    const NEAR: f32 = 0.5;
    // SAFETY: as the caller promises.
    unsafe {
        let (zero, least) = (V::splat(0.0), V::splat(LEAST as f32));
        let (p_known, log_p) = (log_p, log_p.max(least));
        let log_q = log_sum_exp.into_iter().fold(logit, |rest, part| rest.sub(V::splat(part))).max(least);
        let d = log_p.sub(log_q);
        let d = V::splat(floor).if_less(p_known, d, d.min(zero));
        let (p, q) = (exp(log_p), exp(log_q));
        let far = q.sub(p).mul_add(p, d);
        // d² / 2! - d³ / 3! + …
        let mut series = V::splat(2.480_158_7e-5);
        for c in [-1.984_127e-4, 1.388_888_9e-3, -8.333_333e-3, 4.166_666_8e-2, -1.666_666_7e-1, 0.5] {
            series = V::splat(c).mul_add(series, d);
        }
        let near = p.mul(d.mul(d)).mul(series);
        let size = d.max(zero.sub(d));
        size.if_less(V::splat(NEAR), near, far)
    }
}
