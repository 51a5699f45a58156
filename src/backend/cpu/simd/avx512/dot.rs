//! Products of weight rows as they lie in the file with 16-bit activations, two blocks at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::formats::{BEYOND, Order, Unpack, Windows};
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS, Line};
use crate::backend::cpu::simd::avx2;
use crate::backend::cpu::simd::matvec::{Dots, WeightRow};
use crate::backend::cpu::simd::scales::{Kept, Scales};

/// Pairs of blocks in a chunk.
const CHUNK_PAIRS: usize = CHUNK_BLOCKS / 2;

/// Products with AVX-512.
pub(super) struct Avx512;

// SAFETY: of a row of odd length the block beyond it is read, and with the last block the rest of a register.
unsafe impl<F: Unpack> Dots<F> for Avx512 {
    type Vector = Lanes;
    const BEYOND: usize = if F::GROUP == 1 { BEYOND } else { 0 };
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn unpack(scales: &mut Scales<'_>, p: *const u8, n_groups: usize, readable: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            if matches!(F::KEPT, Kept::Half(_) | Kept::Halves) && readable >= 16 * F::GROUP_BYTES {
                unpack_by_windows::<F>(scales, p, n_groups);
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
                let mut sums = Sums::<N, T>::new();
                if F::GROUP == CHUNK_BLOCKS {
                    // Unrolled: shifts are by constants then.
                    for j in 0..CHUNK_PAIRS {
                        sums.add_pair::<F>(rows, x, c * CHUNK_PAIRS + j, [true; 2]);
                    }
                } else {
                    for p in c * CHUNK_PAIRS..n_pairs.min((c + 1) * CHUNK_PAIRS) {
                        sums.add_pair::<F>(rows, x, p, [true; 2]);
                    }
                    if n_pairs < (c + 1) * CHUNK_PAIRS && n_blocks % 2 == 1 {
                        sums.add_pair::<F>(rows, x, n_pairs, [true, false]);
                    }
                }
                totals = sums.add_chunk::<F>(totals, rows, x, c);
            }
            let mut result = [[0.0; T]; N];
            for t in 0..T {
                // Lanes 0 to 7 and 8 to 15, then as with eight.
                let mut halves = [_mm256_setzero_ps(); N];
                for m in 0..N {
                    let mut total = totals[m][t];
                    if F::MINS {
                        total = offsets::<F>(total, rows[m].mins, x[t]);
                    }
                    halves[m] = _mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps::<1>(total));
                }
                if N == 4 {
                    let four = avx2::sums([halves[0], halves[1 % N], halves[2 % N], halves[3 % N]]);
                    (0..N).for_each(|m| result[m][t] = four[m]);
                } else {
                    for m in 0..N {
                        result[m][t] = avx2::sum(halves[m]);
                    }
                }
            }
            result
        }
    }
}

/// The sums of a chunk: of integers, where its blocks share a scale.
#[derive(Clone, Copy)]
struct Sums<const N: usize, const T: usize> {
    floats: [[__m512; T]; N],
    integers: [[__m512i; T]; N],
}

#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
impl<const N: usize, const T: usize> Sums<N, T> {
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the callers have AVX-512, here and below.
        unsafe { Self { floats: [[_mm512_setzero_ps(); T]; N], integers: [[_mm512_setzero_si512(); T]; N] } }
    }

    /// Adds the blocks 2p and 2p + 1, the second one only if `there` says that it is.
    #[inline(always)]
    unsafe fn add_pair<F: Unpack>(
        &mut self,
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
                let lines: *const Line = if F::ORDER == Order::Woven { x[t].woven.as_ptr() } else { x[t].q.as_ptr() };
                loaded[t] = [0, 1].map(|i| _mm512_load_si512(lines.add(b + i).cast()));
            }
            let x = loaded;
            let step = 2 * N * F::GROUP_BYTES / F::GROUP;
            avx2::prefetch(rows[0].bytes.wrapping_add(p * step), step);
            for m in 0..N {
                let (group, in_group) = (b / F::GROUP, b % F::GROUP);
                let q = F::quants(rows[m].bytes.add(group * F::GROUP_BYTES), in_group / 2);
                let scales = rows[m].scales.add(if F::SHARED { 0 } else { b });
                for t in 0..T {
                    let sums = (&mut self.integers[m][t], &mut self.floats[m][t]);
                    add_two::<F>(sums, q, x[t], scales, there);
                }
            }
        }
    }

    /// Adds a chunk's sums, times the scale that its activations share.
    #[inline(always)]
    unsafe fn add_chunk<F: Unpack>(
        self,
        mut totals: [[__m512; T]; N],
        rows: [WeightRow; N],
        x: [ActivationRow<'_>; T],
        c: usize,
    ) -> [[__m512; T]; N] {
        // SAFETY: x and the rows have a chunk c, as the caller of `dots` promises.
        unsafe {
            for t in 0..T {
                let scale = *x[t].scales.get_unchecked(c);
                for m in 0..N {
                    let (sum, scale) = if F::SHARED {
                        (_mm512_cvtepi32_ps(self.integers[m][t]), scale * *rows[m].scales.add(c))
                    } else {
                        (self.floats[m][t], scale)
                    };
                    totals[m][t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), totals[m][t]);
                }
            }
        }
        totals
    }
}

/// Adds two blocks of a weight row and a row of x, the second one only if `there` says that it is.
#[inline(always)]
unsafe fn add_two<F: Unpack>(
    (integers, floats): (&mut __m512i, &mut __m512),
    q: [__m512i; 2],
    x: [__m512i; 2],
    scales: *const f32,
    there: [bool; 2],
) {
    // SAFETY: the callers have AVX-512, and a scale for each block that is there.
    unsafe {
        if F::SHARED {
            // Each lane: 16 products of 15 bits and 12. That fits 31 bits.
            *integers = multiply_add(multiply_add(*integers, q[0], x[0]), q[1], x[1]);
        } else if F::ORDER == Order::Woven {
            let sum = multiply_add(_mm512_madd_epi16(q[0], x[0]), q[1], x[1]);
            let scale = if there[1] {
                _mm512_castpd_ps(_mm512_set1_pd(scales.cast::<f64>().read_unaligned()))
            } else {
                _mm512_maskz_mov_ps(0x5555, _mm512_set1_ps(*scales))
            };
            *floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *floats);
        } else {
            for i in 0..2 {
                if there[i] {
                    let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(q[i], x[i]));
                    *floats = _mm512_fmadd_ps(sum, _mm512_set1_ps(*scales.add(i)), *floats);
                }
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

/// Adds Σ min · (sum of the block's activations, or of half a block's).
#[inline(always)]
unsafe fn offsets<F: Unpack>(mut total: __m512, mins: *const f32, x: ActivationRow<'_>) -> __m512 {
    // SAFETY: as many offsets and sums as blocks, or as halves of them.
    unsafe {
        let (all, n) = x.sums_for::<F>();
        for b in (0..n).step_by(16) {
            let there = ((1u32 << (n - b).min(16)) - 1) as __mmask16;
            let sums = _mm512_maskz_loadu_ps(there, all.as_ptr().add(b));
            total = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, mins.add(b)), sums, total);
        }
        total
    }
}

/// [`Scales::unpack`] of formats with one block to a group; some bytes behind the groups can be read as well, up to 16 groups
/// of them.
#[inline(always)]
unsafe fn unpack_by_windows<F: Unpack>(scales: &mut Scales<'_>, p: *const u8, n_blocks: usize) {
    let [to_scales, to_mins] = scales.first(n_blocks);
    // SAFETY: there is room for the blocks rounded up to registers, and the last window begins with one of 16 blocks.
    unsafe {
        let windows = &const { Windows::new(F::GROUP_BYTES, if matches!(F::KEPT, Kept::Halves) { 2 } else { 1 }) };
        for b in (0..n_blocks).step_by(16) {
            let mut halves = _mm512_setzero_si512();
            for w in 0..16usize.div_ceil(windows.n_blocks) {
                let window = _mm512_loadu_si512(p.add((b + w * windows.n_blocks) * F::GROUP_BYTES).cast());
                let index = _mm512_loadu_si512(windows.bytes[w].as_ptr().cast());
                halves = _mm512_mask_permutexvar_epi8(halves, windows.masks[w], index, window);
            }
            let d = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
            _mm512_storeu_ps(to_scales.add(b), d);
            match F::KEPT {
                Kept::Half(per_scale) if F::MINS => {
                    _mm512_storeu_ps(to_mins.add(b), _mm512_mul_ps(d, _mm512_set1_ps(per_scale)));
                }
                Kept::Halves => {
                    let mins = _mm512_extracti64x4_epi64::<1>(halves);
                    _mm512_storeu_ps(to_mins.add(b), _mm512_cvtph_ps(mins));
                }
                _ => {}
            }
        }
    }
}
