//! Rounds rows of activations to 16 bits, and splits these in two bytes.

use std::arch::aarch64::*;

use super::Order;
use crate::backend::cpu::simd::activations::{ActivationRowMut, BLOCK, CHUNK, CHUNK_BLOCKS, Line, scale_of};

/// Fills `out` with the numbers of `x`, as many as `out` has blocks for; in plain order, and in `order` too.
pub(super) fn quantize(x: &[f32], out: ActivationRowMut<'_>, order: Order) {
    assert!(x.len().div_ceil(2 * BLOCK) * 2 == out.q.len() && out.sums.len() == out.scales.len() * CHUNK_BLOCKS);
    assert!(out.scales.len() == x.len().div_ceil(CHUNK) && out.woven.len() == out.q.len());
    out.sums.fill(0.0);
    out.half_sums.fill(0.0);
    let lines = out.q.chunks_mut(CHUNK_BLOCKS).zip(out.woven.chunks_mut(CHUNK_BLOCKS));
    let half_sums = out.half_sums.as_chunks_mut::<2>().0.chunks_exact_mut(CHUNK_BLOCKS);
    let sums = out.sums.chunks_exact_mut(CHUNK_BLOCKS).zip(half_sums);
    for (((x, (q, woven)), scale), (sums, half_sums)) in x.chunks(CHUNK).zip(lines).zip(out.scales).zip(sums) {
        let per_unit;
        (*scale, per_unit) = scale_of(largest(x));
        let lines = x.as_chunks::<BLOCK>().0.iter().zip(q).zip(woven);
        for (((x, q), woven), (sum, halves)) in lines.zip(sums.iter_mut().zip(half_sums)) {
            let [a, b] = quantize_block(x, per_unit, order, q, woven);
            *sum = (a + b) as f32 * *scale;
            *halves = [a, b].map(|half| half as f32 * *scale);
        }
    }
}

/// The largest magnitude, or NaN if one is.
fn largest(x: &[f32]) -> f32 {
    // SAFETY: NEON is there on every processor of this architecture, and four numbers can be read from each.
    unsafe {
        let mut max = vdupq_n_f32(0.0);
        for x in x.as_chunks::<4>().0 {
            // Here a NaN is larger than any number.
            max = vmaxq_f32(max, vabsq_f32(vld1q_f32(x.as_ptr())));
        }
        vmaxvq_f32(max)
    }
}

/// Rounds a block to multiples of 1/`per_unit`, and gives the sum of these in each half.
fn quantize_block(x: &[f32; BLOCK], per_unit: f32, order: Order, q: &mut Line, woven: &mut Line) -> [i32; 2] {
    let (to, woven) = (q.0.as_mut_ptr(), woven.0.as_mut_ptr().cast::<i8>());
    // SAFETY: NEON, as above; a block has as many numbers, and a line room for them and for two bytes of each.
    unsafe {
        let mut sums = [vdupq_n_s32(0); 2];
        for i in (0..BLOCK).step_by(8) {
            let [a, b] = [i, i + 4].map(|i| vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.as_ptr().add(i)), per_unit)));
            sums[i / 16] = vaddq_s32(sums[i / 16], vaddq_s32(a, b));
            let q = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
            vst1q_s16(to.add(i), q);
            // q = 256 · high + low with a signed low byte.
            let (high, low) = (vrshrn_n_s16::<8>(q), vmovn_s16(q));
            let (half, in_half) = (i / 16 * 32, i % 16);
            match order {
                Order::Plain => {}
                Order::Halves => {
                    vst1_s8(woven.add(half + in_half), high);
                    vst1_s8(woven.add(half + 16 + in_half), low);
                }
                Order::Eights => {
                    vst1_s8(woven.add(half + 2 * in_half), high);
                    vst1_s8(woven.add(half + 2 * in_half + 8), low);
                }
            }
        }
        sums.map(|sum| vaddvq_s32(sum))
    }
}
