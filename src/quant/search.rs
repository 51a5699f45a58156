//! Scale search of the K formats: rounding to the nearest step of the obvious scale is not the best a block can do.
//!
//! For a sub-block, several scales near the obvious one are tried. Each gives quants, and for fixed quants the best
//! scale (and offset) is a weighted least-squares fit in closed form; the trial with the smallest error wins. Weights
//! of a larger magnitude count more, because they contribute more to a dot product.

use super::block::Half;
use super::k_scales::Head;
use super::round::{furthest_from_zero, min_max};

/// Weights in a super-block.
const LEN: usize = 256;

/// `w = scale · q - min`
#[derive(Clone, Copy, Default)]
struct Affine {
    scale: f32,
    min: f32,
}

/// Quantizes eight sub-blocks of 32, each with a scale and an offset of 6 bits, to quants of `0..=max_q`.
pub(super) fn super_block(src: &[f32; LEN], max_q: u8) -> (Head, [u8; LEN]) {
    let (subs, _) = src.as_chunks::<32>();
    let mut fits = [Affine::default(); 8];
    for (fit, sub) in fits.iter_mut().zip(subs) {
        *fit = fit_affine(sub, max_q);
    }
    let (d, scales) = six_bits(fits.map(|fit| fit.scale));
    let (dmin, mins) = six_bits(fits.map(|fit| fit.min));

    // The stored scales are rounded: the quants are chosen for them, not for the fitted ones.
    let mut q = [0; LEN];
    for (i, (sub, q)) in subs.iter().zip(q.as_chunks_mut::<32>().0).enumerate() {
        let stored = Affine { scale: d.to_f32() * f32::from(scales[i]), min: dmin.to_f32() * f32::from(mins[i]) };
        if stored.scale != 0.0 {
            *q = stored.quantize(sub, max_q);
        }
    }
    (Head::new(d, &scales, dmin, &mins), q)
}

/// Quantizes sixteen sub-blocks of 16, each with a signed scale of 8 bits, to quants of `0..64` that stand for
/// `-32..32`.
pub(super) fn signed_super_block(src: &[f32; LEN]) -> (Half, [i8; 16], [u8; LEN]) {
    let (subs, _) = src.as_chunks::<16>();
    let mut fits = [0.0; 16];
    for (fit, sub) in fits.iter_mut().zip(subs) {
        *fit = fit_signed(sub);
    }
    // The scale of the largest magnitude becomes -128, the end of the range that is further from zero.
    let d = Half::from_f32(furthest_from_zero(&fits) / -128.0);
    let mut scales = [0; 16];
    let mut q = [32; LEN];
    if d.to_f32() != 0.0 {
        scales = fits.map(|fit| (fit / d.to_f32()).round() as i8);
        for (i, (sub, q)) in subs.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
            let scale = d.to_f32() * f32::from(scales[i]);
            if scale != 0.0 {
                *q = sub.map(|w| (signed_quant(w / scale) + 32) as u8);
            }
        }
    }
    (d, scales, q)
}

/// The best offset and scale for `src`. The offset is never negative: `0` is always representable, or nearly so.
fn fit_affine(src: &[f32; 32], max_q: u8) -> Affine {
    /// How far the number of steps between the smallest and the largest weight is varied, in steps.
    const TRIALS: std::ops::RangeInclusive<i8> = -10..=10;
    const TRIAL_STEP: f32 = 0.1;

    let (min, max) = min_max(src);
    let min = min.min(0.0);
    if max <= min {
        return Affine { scale: 0.0, min: -min };
    }
    let rms = (src.iter().map(|w| w * w).sum::<f32>() / src.len() as f32).sqrt();
    let importance = src.map(|w| rms + w.abs());

    let mut best = Affine { scale: (max - min) / f32::from(max_q), min: -min };
    let mut best_error = best.error(src, &importance, &best.quantize(src, max_q));
    for trial in TRIALS {
        let steps = f32::from(max_q) + TRIAL_STEP * f32::from(trial);
        let q = Affine { scale: (max - min) / steps, min: -min }.quantize(src, max_q);
        let fit = least_squares(src, &importance, &q);
        let error = fit.error(src, &importance, &q);
        if fit.scale > 0.0 && error < best_error {
            (best, best_error) = (fit, error);
        }
    }
    best
}

/// Minimizes `Σ importance · (scale · q - min - w)²` with `min ≥ 0`.
fn least_squares(src: &[f32; 32], importance: &[f32; 32], q: &[u8; 32]) -> Affine {
    let (mut n, mut sum_q, mut sum_qq, mut sum_w, mut sum_qw) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ((&w, &k), &q) in src.iter().zip(importance).zip(q) {
        let q = f32::from(q);
        n += k;
        sum_q += k * q;
        sum_qq += k * q * q;
        sum_w += k * w;
        sum_qw += k * q * w;
    }
    let determinant = n * sum_qq - sum_q * sum_q;
    if determinant <= 0.0 {
        return Affine::default();
    }
    let scale = (n * sum_qw - sum_q * sum_w) / determinant;
    let min = (sum_q * sum_qw - sum_qq * sum_w) / determinant;
    if min >= 0.0 { Affine { scale, min } } else { Affine { scale: sum_qw / sum_qq, min: 0.0 } }
}

impl Affine {
    fn quantize(self, src: &[f32; 32], max_q: u8) -> [u8; 32] {
        src.map(|w| (((w + self.min) / self.scale).round_ties_even() as u8).min(max_q))
    }

    fn error(self, src: &[f32; 32], importance: &[f32; 32], q: &[u8; 32]) -> f32 {
        let square = |w: f32, q: u8| (self.scale * f32::from(q) - self.min - w).powi(2);
        src.iter().zip(importance).zip(q).map(|((&w, k), &q)| k * square(w, q)).sum()
    }
}

/// The best scale for `src`, of either sign.
fn fit_signed(src: &[f32; 16]) -> f32 {
    /// How far the quant of the largest weight is varied around -32.
    const TRIALS: std::ops::RangeInclusive<i8> = -9..=9;
    const TRIAL_STEP: f32 = 0.1;

    let furthest = furthest_from_zero(src);
    let (mut best, mut best_gain) = (0.0, 0.0);
    if furthest == 0.0 {
        return best;
    }
    for trial in TRIALS {
        let per_scale = (-32.0 + TRIAL_STEP * f32::from(trial)) / furthest;
        // With importance w²: the fit is Σw²·wq / Σw²·qq, and it takes (Σw²·wq)² / Σw²·qq off the error.
        let (mut sum_wq, mut sum_qq) = (0.0, 0.0);
        for &w in src {
            let q = f32::from(signed_quant(w * per_scale));
            sum_wq += w * w * w * q;
            sum_qq += w * w * q * q;
        }
        let gain = sum_wq * sum_wq / sum_qq;
        if gain > best_gain {
            (best, best_gain) = (sum_wq / sum_qq, gain);
        }
    }
    best
}

fn signed_quant(steps: f32) -> i8 {
    (steps.round_ties_even() as i8).clamp(-32, 31)
}

/// Non-negative numbers as multiples, up to 63, of the largest one's 63rd part.
fn six_bits(numbers: [f32; 8]) -> (Half, [u8; 8]) {
    let d = Half::from_f32(numbers.iter().copied().fold(0.0, f32::max) / 63.0);
    let steps = |x: f32| if d.to_f32() == 0.0 { 0.0 } else { x / d.to_f32() };
    (d, numbers.map(|x| (steps(x).round() as u8).min(63)))
}
