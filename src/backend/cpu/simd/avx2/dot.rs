//! Products of weight rows as they lie in the file with 16-bit activations.

use std::arch::x86_64::*;

use super::formats::Unpack;
use super::vector::Lanes;
use super::{sum, sums};
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS};
use crate::backend::cpu::simd::matvec::{Dots, M, WeightRow};

/// Products with AVX2.
pub(super) struct Avx2;

// SAFETY: exactly the groups of a row are read.
unsafe impl<F: Unpack> Dots<F> for Avx2 {
    type Vector = Lanes;
    const BEYOND: usize = 0;

    #[inline(always)]
    unsafe fn dots<const N: usize>(rows: [WeightRow; N], x: ActivationRow<'_>) -> [f32; N] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        let n_blocks = x.n_blocks;
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [_mm256_setzero_ps(); N];
            for c in 0..n_blocks.div_ceil(CHUNK_BLOCKS) {
                let mut sums = [_mm256_setzero_ps(); N];
                if F::GROUP == CHUNK_BLOCKS {
                    // Unrolled: shifts are by constants then.
                    for j in (0..CHUNK_BLOCKS).step_by(2) {
                        sums = add_two::<F, N>(sums, rows, x, c, j);
                    }
                } else {
                    let there = CHUNK_BLOCKS.min(n_blocks - c * CHUNK_BLOCKS);
                    for j in (0..there - there % 2).step_by(2) {
                        sums = add_two::<F, N>(sums, rows, x, c, j);
                    }
                    if there % 2 == 1 {
                        for m in 0..N {
                            let block = rows[m].bytes.add((n_blocks - 1) * F::GROUP_BYTES);
                            sums[m] = add_block::<F>(sums[m], rows[m], F::quants(block, 0), x, n_blocks - 1);
                        }
                    }
                }
                totals = add_chunk::<F, N>(totals, sums, rows, x, c);
            }
            if F::MINS {
                for m in 0..N {
                    totals[m] = _mm256_add_ps(totals[m], offsets(rows[m].mins, x));
                }
            }
            if N == M {
                let four = sums([totals[0], totals[1 % N], totals[2 % N], totals[3 % N]]);
                std::array::from_fn(|m| four[m])
            } else {
                std::array::from_fn(|m| sum(totals[m]))
            }
        }
    }
}

/// Adds two blocks of chunk c, from its block j on.
#[inline(always)]
unsafe fn add_two<F: Unpack, const N: usize>(
    mut sums: [__m256; N],
    rows: [WeightRow; N],
    x: ActivationRow<'_>,
    c: usize,
    j: usize,
) -> [__m256; N] {
    let b = c * CHUNK_BLOCKS + j;
    // SAFETY: the caller of `dots` promises that there are blocks b and b + 1 everywhere.
    unsafe {
        let step = 2 * N * F::GROUP_BYTES / F::GROUP;
        super::prefetch(rows[0].bytes.wrapping_add(b / 2 * step), step);
        for m in 0..N {
            let [first, second] = F::two(rows[m].bytes.add(b / F::GROUP * F::GROUP_BYTES), j);
            sums[m] = add_block::<F>(sums[m], rows[m], first, x, b);
            sums[m] = add_block::<F>(sums[m], rows[m], second, x, b + 1);
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
unsafe fn add_chunk<F: Unpack, const N: usize>(
    mut totals: [__m256; N],
    sums: [__m256; N],
    rows: [WeightRow; N],
    x: ActivationRow<'_>,
    c: usize,
) -> [__m256; N] {
    // SAFETY: AVX2 and FMA, and x and the rows have a chunk c: as the caller of `dots` promises.
    unsafe {
        let scale = _mm256_broadcast_ss(&*x.scales.as_ptr().add(c));
        for m in 0..N {
            let scale =
                if F::SHARED { _mm256_mul_ps(scale, _mm256_broadcast_ss(&*rows[m].scales.add(c))) } else { scale };
            totals[m] = _mm256_fmadd_ps(sums[m], scale, totals[m]);
        }
    }
    totals
}

/// Σ min · (sum of the block's activations).
#[inline(always)]
unsafe fn offsets(mins: *const f32, x: ActivationRow<'_>) -> __m256 {
    // SAFETY: AVX2 and FMA, as many offsets as blocks, and sums up to a whole chunk.
    unsafe {
        let mut total = _mm256_setzero_ps();
        let whole = x.n_blocks - x.n_blocks % CHUNK_BLOCKS;
        let sums = x.sums.as_ptr();
        for b in (0..whole).step_by(CHUNK_BLOCKS) {
            total = _mm256_fmadd_ps(_mm256_loadu_ps(mins.add(b)), _mm256_loadu_ps(sums.add(b)), total);
        }
        if whole < x.n_blocks {
            // Behind the row's own offsets are those of the next.
            let mins = _mm256_maskload_ps(mins.add(whole), super::vector::first(x.n_blocks - whole));
            total = _mm256_fmadd_ps(mins, _mm256_loadu_ps(sums.add(whole)), total);
        }
        total
    }
}

const _: () = assert!(CHUNK_BLOCKS == 8, "the sums of a chunk are one register");
