//! Products of weight rows as they lie in the file with 16-bit activations, two blocks at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::formats::{BEYOND, Order, Unpack};
use super::scales::chunk;
use super::stream;
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS, Line};
use crate::backend::cpu::simd::avx2;
use crate::backend::cpu::simd::matvec::{Dots, WeightRow};
use crate::backend::cpu::simd::scales::Scales;

/// Pairs of blocks in a chunk.
const CHUNK_PAIRS: usize = CHUNK_BLOCKS / 2;

/// Products with AVX-512.
pub(super) struct Avx512;

// SAFETY: of a row of odd length the block beyond it is read, and with the last block the rest of a register.
unsafe impl<F: Unpack> Dots<F> for Avx512 {
    type Vector = Lanes;
    const BEYOND: usize = if F::GROUP == 1 { BEYOND } else { 0 };
    const REGISTERS: usize = 32;

    const STREAMS: bool = true;

    #[inline(always)]
    unsafe fn stream<const N: usize>(rows: [*const u8; N], x: ActivationRow<'_>) -> [f32; N] {
        // SAFETY: as the caller promises.
        unsafe { stream::dots::<F, N>(rows, x) }
    }

    #[inline(always)]
    unsafe fn unpack(scales: &mut Scales<'_>, p: *const u8, n_groups: usize, readable: usize) {
        // SAFETY: as the caller promises; windows are a register long.
        unsafe {
            if F::GROUP == 1 && readable >= 64 {
                unpack_chunks::<F>(scales, p, n_groups);
            } else {
                scales.unpack::<F, Lanes>(p, n_groups);
            }
        }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(rows: [WeightRow; N], x: [ActivationRow<'_>; T]) -> [[f32; T]; N] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        let n_blocks = x[0].n_blocks;
        // SAFETY: as the caller promises; `add_pair` knows how many blocks there are.
        unsafe {
            let mut totals = [[_mm512_setzero_ps(); T]; N];
            let n_pairs = n_blocks / 2;
            for c in 0..n_blocks.div_ceil(CHUNK_BLOCKS) {
                let mut sums = [[Sums::new(); T]; N];
                if F::GROUP == CHUNK_BLOCKS {
                    // Unrolled: shifts are by constants then.
                    for j in 0..CHUNK_PAIRS {
                        add_pair::<F, N, T>(&mut sums, rows, x, c * CHUNK_PAIRS + j, [true; 2]);
                    }
                } else {
                    for p in c * CHUNK_PAIRS..n_pairs.min((c + 1) * CHUNK_PAIRS) {
                        add_pair::<F, N, T>(&mut sums, rows, x, p, [true; 2]);
                    }
                    if n_pairs < (c + 1) * CHUNK_PAIRS && n_blocks % 2 == 1 {
                        add_pair::<F, N, T>(&mut sums, rows, x, n_pairs, [true, false]);
                    }
                }
                for t in 0..T {
                    let scale = *x[t].scales.get_unchecked(c);
                    for m in 0..N {
                        let shared = if F::SHARED { *rows[m].scales.add(c) } else { 1.0 };
                        totals[m][t] = sums[m][t].add_to::<F>(totals[m][t], scale, shared);
                    }
                }
            }
            let mut result = [[0.0; T]; N];
            for t in 0..T {
                // Lanes 0 to 7 and 8 to 15, then as with eight.
                let mut halves = [_mm256_setzero_ps(); N];
                for m in 0..N {
                    let mut total = totals[m][t];
                    if F::MINS {
                        total = _mm512_add_ps(total, offsets::<F>(rows[m].mins, x[t]));
                    }
                    halves[m] = _mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps::<1>(total));
                }
                for (result, sum) in result.iter_mut().zip(avx2::sums(halves)) {
                    result[t] = sum;
                }
            }
            result
        }
    }
}

/// The sums of a chunk: of integers, where its blocks share a scale.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    floats: __m512,
    integers: __m512i,
}

impl Sums {
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the callers have AVX-512, here and below.
        unsafe { Self { floats: _mm512_setzero_ps(), integers: _mm512_setzero_si512() } }
    }

    /// `total`, and these times the scale that the chunk's activations share, and that of the weights if they share one.
    #[inline(always)]
    pub(super) unsafe fn add_to<F: Unpack>(self, total: __m512, of_x: f32, shared: f32) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (sum, scale) =
                if F::SHARED { (_mm512_cvtepi32_ps(self.integers), of_x * shared) } else { (self.floats, of_x) };
            _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), total)
        }
    }
}

/// Adds the blocks 2p and 2p + 1, the second one only if `there` says that it is.
#[inline(always)]
unsafe fn add_pair<F: Unpack, const N: usize, const T: usize>(
    sums: &mut [[Sums; T]; N],
    rows: [WeightRow; N],
    x: [ActivationRow<'_>; T],
    p: usize,
    there: [bool; 2],
) {
    let b = 2 * p;
    // SAFETY: the caller of `dots` promises that there is a block b everywhere, lines are whole pairs, and beyond a row
    // there are as many bytes as this reads.
    unsafe {
        let mut loaded = [[_mm512_setzero_si512(); 2]; T];
        for t in 0..T {
            loaded[t] = lines::<F>(x[t], b);
        }
        let step = 2 * N * F::GROUP_BYTES / F::GROUP;
        avx2::prefetch(rows[0].bytes.wrapping_add(p * step), step);
        for m in 0..N {
            let (group, in_group) = (b / F::GROUP, b % F::GROUP);
            let q = F::quants(rows[m].bytes.add(group * F::GROUP_BYTES), in_group / 2);
            let scales = if F::SHARED { [_mm512_setzero_ps(); 2] } else { F::ORDER.at(rows[m].scales.add(b), there) };
            for t in 0..T {
                add_two::<F>(&mut sums[m][t], q, loaded[t], scales);
            }
        }
    }
}

/// The blocks b and b + 1 of x.
#[inline(always)]
pub(super) unsafe fn lines<F: Unpack>(x: ActivationRow<'_>, b: usize) -> [__m512i; 2] {
    let lines: *const Line = if F::ORDER == Order::Woven { x.woven.as_ptr() } else { x.q.as_ptr() };
    // SAFETY: the callers have AVX-512 and a block b; lines are whole pairs.
    unsafe { [0, 1].map(|i| _mm512_load_si512(lines.add(b + i).cast())) }
}

/// Adds two blocks of a weight row and a row of x, whose `scales` are as [`Order`] says; without any where they share one.
#[inline(always)]
pub(super) unsafe fn add_two<F: Unpack>(sums: &mut Sums, q: [__m512i; 2], x: [__m512i; 2], scales: [__m512; 2]) {
    // SAFETY: the callers have AVX-512.
    unsafe {
        if F::SHARED {
            // Each lane: 16 products of 15 bits and 12. That fits 31 bits.
            sums.integers = multiply_add(multiply_add(sums.integers, q[0], x[0]), q[1], x[1]);
        } else if F::ORDER == Order::Woven {
            let sum = multiply_add(_mm512_madd_epi16(q[0], x[0]), q[1], x[1]);
            sums.floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scales[0], sums.floats);
        } else {
            for i in 0..2 {
                let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(q[i], x[i]));
                sums.floats = _mm512_fmadd_ps(sum, scales[i], sums.floats);
            }
        }
    }
}

/// `sum` and in each of its lanes the products of two pairs of 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn multiply_add(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // In assembly since the compiler makes two instructions of it.
    // SAFETY: the processor has the instruction.
    unsafe {
        asm!("vpdpwssd {sum}, {a}, {b}", sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Σ min · (sum of the block's activations, or of half a block's), a chunk at a time.
#[inline(always)]
unsafe fn offsets<F: Unpack>(mins: *const f32, x: ActivationRow<'_>) -> __m512 {
    // SAFETY: as many offsets and sums as blocks, or as halves of them.
    unsafe {
        let mut total = _mm512_setzero_ps();
        let (all, n) = x.sums_for::<F>();
        let of_chunk = if F::HALF_MINS { 2 * CHUNK_BLOCKS } else { CHUNK_BLOCKS };
        for b in (0..n).step_by(of_chunk) {
            let there = ((1u32 << (n - b).min(of_chunk)) - 1) as __mmask16;
            let sums = _mm512_maskz_loadu_ps(there, all.as_ptr().add(b));
            total = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, mins.add(b)), sums, total);
        }
        total
    }
}

/// [`Scales::unpack`] of formats with one block to a group, behind which 64 bytes can be read.
#[inline(always)]
unsafe fn unpack_chunks<F: Unpack>(scales: &mut Scales<'_>, p: *const u8, n_blocks: usize) {
    let [to_scales, to_mins] = scales.first(n_blocks);
    // SAFETY: there is room for the blocks rounded up to registers.
    unsafe {
        for b in (0..n_blocks).step_by(CHUNK_BLOCKS) {
            let of_chunk = chunk::<F>(p.add(b * F::GROUP_BYTES), CHUNK_BLOCKS.min(n_blocks - b));
            _mm256_storeu_ps(to_scales.add(b), of_chunk.scales);
            if F::MINS {
                _mm256_storeu_ps(to_mins.add(b), _mm512_castps512_ps256(of_chunk.mins));
            }
        }
    }
}
