//! Rounds rows of activations to 16 bits.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::activations::{ActivationRowMut, BLOCK, CHUNK, CHUNK_BLOCKS, Line, scale_of};

/// Fills `out` with the numbers of `x`, as many as `out` has blocks for.
pub(in crate::backend::cpu) fn quantize(x: &[f32], out: ActivationRowMut<'_>) {
    assert!(x.len().div_ceil(2 * BLOCK) * 2 == out.q.len() && out.sums.len() == out.scales.len() * CHUNK_BLOCKS);
    assert!(out.scales.len() == x.len().div_ceil(CHUNK) && super::available());
    // SAFETY: the processor has the features, as was just asserted.
    unsafe { quantize_row(x, out) }
}

#[target_feature(enable = "avx2,fma")]
fn quantize_row(x: &[f32], out: ActivationRowMut<'_>) {
    out.sums.fill(0.0);
    out.half_sums.fill(0.0);
    out.q[x.len() / BLOCK..].fill(Line([0; BLOCK]));
    let chunks = x.chunks(CHUNK).zip(out.q.chunks_mut(CHUNK_BLOCKS));
    let half_sums = out.half_sums.as_chunks_mut::<2>().0.chunks_exact_mut(CHUNK_BLOCKS);
    let sums = out.sums.chunks_exact_mut(CHUNK_BLOCKS).zip(half_sums);
    for (((x, q), scale), (sums, half_sums)) in chunks.zip(out.scales).zip(sums) {
        let per_unit;
        (*scale, per_unit) = scale_of(largest(x));
        for (((x, q), sum), halves) in x.as_chunks::<BLOCK>().0.iter().zip(q).zip(sums).zip(half_sums) {
            let [a, b] = quantize_block(x, per_unit, q);
            *sum = (a + b) as f32 * *scale;
            *halves = [a, b].map(|half| half as f32 * *scale);
        }
    }
}

/// The largest magnitude, or NaN if one is.
#[target_feature(enable = "avx2,fma")]
fn largest(x: &[f32]) -> f32 {
    let mut max = _mm256_setzero_ps();
    let mut nan = _mm256_setzero_ps();
    for x in x.as_chunks::<8>().0 {
        // SAFETY: eight numbers can be read.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        max = _mm256_max_ps(max, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
        nan = _mm256_or_ps(nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    }
    if _mm256_movemask_ps(nan) != 0 {
        return f32::NAN;
    }
    let mut lanes = [0.0f32; 8];
    // SAFETY: eight numbers can be written.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), max) };
    lanes.into_iter().fold(0.0, f32::max)
}

/// Rounds a block to multiples of 1/`per_unit`, and gives the sum of these in each half.
#[target_feature(enable = "avx2,fma")]
fn quantize_block(x: &[f32; BLOCK], per_unit: f32, out: &mut Line) -> [i32; 2] {
    let per_unit = _mm256_set1_ps(per_unit);
    let x = x.as_chunks::<8>().0;
    // SAFETY: eight numbers can be read from each.
    let [a, b, c, d] =
        [0, 1, 2, 3].map(|i| unsafe { _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x[i].as_ptr()), per_unit)) });
    // Packing works on halves of registers; the permutation puts the quarters in order.
    let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
    let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(c, d));
    let to = out.0.as_mut_ptr().cast::<__m256i>();
    // SAFETY: a line holds two registers.
    unsafe {
        _mm256_storeu_si256(to, low);
        _mm256_storeu_si256(to.add(1), high);
    }
    // Of both halves at once: in the lower two and in the upper two of four lanes.
    let pairs = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    let fours = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let sums = _mm_add_epi32(fours, _mm_shuffle_epi32::<0b10_11_00_01>(fours));
    [_mm_cvtsi128_si32(sums), _mm_extract_epi32::<2>(sums)]
}
