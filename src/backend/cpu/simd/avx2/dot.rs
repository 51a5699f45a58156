//! Products of weight rows as they lie in the file with 16-bit activations.

use std::arch::x86_64::*;

use super::formats::Unpack;
use super::sums;
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS};
use crate::backend::cpu::simd::matvec::{Dots, WeightRow};

/// Products with AVX2.
pub(super) struct Avx2;

// SAFETY: exactly the groups of a row are read.
unsafe impl<F: Unpack> Dots<F> for Avx2 {
    type Vector = Lanes;
    const ALONE: bool = true;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(rows: [WeightRow; N], x: [ActivationRow<'_>; T]) -> [[f32; T]; N] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        let n_blocks = x[0].n_blocks;
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[_mm256_setzero_ps(); T]; N];
            for c in 0..n_blocks.div_ceil(CHUNK_BLOCKS) {
                let chunk_bytes = CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES;
                for row in rows {
                    row.prefetch::<Lanes>(c * chunk_bytes, chunk_bytes);
                }
                let mut sums = [[_mm256_setzero_ps(); T]; N];
                if F::GROUP == CHUNK_BLOCKS {
                    // Unrolled: shifts are by constants then.
                    for j in (0..CHUNK_BLOCKS).step_by(2) {
                        sums = add_two::<F, N, T>(sums, rows, x, c, j);
                    }
                } else {
                    let there = CHUNK_BLOCKS.min(n_blocks - c * CHUNK_BLOCKS);
                    for j in (0..there - there % 2).step_by(2) {
                        sums = add_two::<F, N, T>(sums, rows, x, c, j);
                    }
                    if there % 2 == 1 {
                        for m in 0..N {
                            let q = F::quants(rows[m].bytes.add((n_blocks - 1) * F::GROUP_BYTES), 0);
                            for t in 0..T {
                                sums[m][t] = add_block::<F>(sums[m][t], rows[m], q, x[t], n_blocks - 1);
                            }
                        }
                    }
                }
                totals = add_chunk::<F, N, T>(totals, sums, rows, x, c);
            }
            let mut result = [[0.0; T]; N];
            for t in 0..T {
                let mut whole = [_mm256_setzero_ps(); N];
                for m in 0..N {
                    whole[m] = totals[m][t];
                    if F::MINS {
                        whole[m] = _mm256_add_ps(whole[m], offsets::<F>(rows[m].mins, x[t]));
                    }
                }
                for (result, sum) in result.iter_mut().zip(sums(whole)) {
                    result[t] = sum;
                }
            }
            result
        }
    }
}

/// Adds two blocks of chunk c, from its block j on.
#[inline(always)]
unsafe fn add_two<F: Unpack, const N: usize, const T: usize>(
    mut sums: [[__m256; T]; N],
    rows: [WeightRow; N],
    x: [ActivationRow<'_>; T],
    c: usize,
    j: usize,
) -> [[__m256; T]; N] {
    let b = c * CHUNK_BLOCKS + j;
    // SAFETY: the caller of `dots` promises that there are blocks b and b + 1 everywhere.
    unsafe {
        for m in 0..N {
            let two = F::two(rows[m].bytes.add(b / F::GROUP * F::GROUP_BYTES), j);
            for (i, q) in two.into_iter().enumerate() {
                for t in 0..T {
                    sums[m][t] = add_block::<F>(sums[m][t], rows[m], q, x[t], b + i);
                }
            }
        }
    }
    sums
}

/// Adds `scale · Σ q x` of block b; where blocks share a scale, `Σ q x`.
#[inline(always)]
unsafe fn add_block<F: Unpack>(
    sum: __m256,
    row: WeightRow,
    [low, high]: [__m256i; 2],
    x: ActivationRow<'_>,
    b: usize,
) -> __m256 {
    // SAFETY: as above.
    unsafe {
        let p = x.q.as_ptr().add(b).cast::<__m256i>();
        let x = [_mm256_load_si256(p), _mm256_load_si256(p.add(1))];
        // Each lane: two sums of two products of 15 bits and 8, or 13 in Q6_K. That fits 31 bits.
        let of_block = _mm256_add_epi32(_mm256_madd_epi16(low, x[0]), _mm256_madd_epi16(high, x[1]));
        let of_block = _mm256_cvtepi32_ps(of_block);
        if F::SHARED {
            _mm256_add_ps(sum, of_block)
        } else {
            _mm256_fmadd_ps(of_block, _mm256_broadcast_ss(&*row.scales.add(b)), sum)
        }
    }
}

/// Adds a chunk's sums, times the scale that its activations share.
#[inline(always)]
unsafe fn add_chunk<F: Unpack, const N: usize, const T: usize>(
    mut totals: [[__m256; T]; N],
    sums: [[__m256; T]; N],
    rows: [WeightRow; N],
    x: [ActivationRow<'_>; T],
    c: usize,
) -> [[__m256; T]; N] {
    // SAFETY: AVX2 and FMA, and x and the rows have a chunk c: as the caller of `dots` promises.
    unsafe {
        for t in 0..T {
            let scale = _mm256_broadcast_ss(&*x[t].scales.as_ptr().add(c));
            for m in 0..N {
                let scale =
                    if F::SHARED { _mm256_mul_ps(scale, _mm256_broadcast_ss(&*rows[m].scales.add(c))) } else { scale };
                totals[m][t] = _mm256_fmadd_ps(sums[m][t], scale, totals[m][t]);
            }
        }
    }
    totals
}

/// Σ min · (sum of the block's activations, or of half a block's).
#[inline(always)]
unsafe fn offsets<F: Unpack>(mins: *const f32, x: ActivationRow<'_>) -> __m256 {
    // SAFETY: AVX2 and FMA, as many offsets as blocks or halves of them, and sums up to a whole chunk.
    unsafe {
        let mut total = _mm256_setzero_ps();
        let (sums, n) = x.sums_for::<F>();
        let (sums, whole) = (sums.as_ptr(), n - n % CHUNK_BLOCKS);
        for b in (0..whole).step_by(CHUNK_BLOCKS) {
            total = _mm256_fmadd_ps(_mm256_loadu_ps(mins.add(b)), _mm256_loadu_ps(sums.add(b)), total);
        }
        if whole < n {
            // Behind the row's own offsets are those of the next.
            let mins = _mm256_maskload_ps(mins.add(whole), super::vector::first(n - whole));
            total = _mm256_fmadd_ps(mins, _mm256_loadu_ps(sums.add(whole)), total);
        }
        total
    }
}

const _: () = assert!(CHUNK_BLOCKS == 8, "the sums of a chunk are one register");
