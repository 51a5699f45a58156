//! The one product of weights and 16-bit activations: some weight rows with some rows of x, kept in registers.
//!
//! Weights come from the file (decode) or from an unpacked panel (prefill) through [`Blocks`]; everything behind that
//! is the same code, which is why a row of x has the same bits on either way and in any company.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::formats::Unpack;
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS};

/// Bytes from a block to what is asked of memory when it is read: the rows after those that are multiplied now. Scales
/// are read before quants, so that without this a row would first be waited for and then multiplied.
const AHEAD: usize = 4096;

/// A weight row as blocks of 32.
///
/// # Safety
/// `get` reads only what belongs to the row.
pub(super) unsafe trait Blocks: Copy {
    /// Block `j` of chunk `c`.
    ///
    /// # Safety
    /// The processor has AVX2, and the row has that block.
    unsafe fn get(self, c: usize, j: usize) -> [__m256i; 2];
}

/// A row as it lies in the file.
pub(super) struct FileRow<F>(pub(super) *const u8, pub(super) PhantomData<F>);

impl<F> Clone for FileRow<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for FileRow<F> {}

// SAFETY: a chunk is eight groups of one block or one group of eight.
unsafe impl<F: Unpack> Blocks for FileRow<F> {
    #[inline(always)]
    unsafe fn get(self, c: usize, j: usize) -> [__m256i; 2] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        // SAFETY: the caller promises that the block is there.
        unsafe {
            if F::GROUP == 1 {
                let block = self.0.add((c * CHUNK_BLOCKS + j) * F::GROUP_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD).cast());
                F::quants(block, 0)
            } else {
                let group = self.0.add(c * F::GROUP_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(group.wrapping_add(AHEAD + j * F::GROUP_BYTES / F::GROUP).cast());
                F::quants(group, j)
            }
        }
    }
}

/// A row of a panel: 16-bit integers.
#[derive(Clone, Copy)]
pub(super) struct PanelRow(pub(super) *const __m256i);

// SAFETY: a block is two registers.
unsafe impl Blocks for PanelRow {
    #[inline(always)]
    unsafe fn get(self, c: usize, j: usize) -> [__m256i; 2] {
        // SAFETY: the caller promises that the block is there.
        unsafe {
            let p = self.0.add(2 * (c * CHUNK_BLOCKS + j));
            [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
        }
    }
}

/// The scales and offsets of a weight row, one of each for each block; offsets are zeros up to a whole chunk.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) scales: *const f32,
    pub(super) mins: *const f32,
}

/// The products of `M` weight rows and `N` rows of x, each as eight numbers that are still to be added up.
///
/// # Safety
/// The processor has AVX2 and FMA; each weight row has the blocks, scales and (with `MINS`) offsets that x has blocks.
#[inline(always)]
pub(super) unsafe fn dots<B: Blocks, const MINS: bool, const M: usize, const N: usize>(
    w: [B; M],
    scales: [Scales; M],
    x: [ActivationRow<'_>; N],
) -> [[__m256; N]; M] {
    let n_blocks = x[0].q.len();
    // SAFETY: all rows of x have as many blocks as the first, and the weight rows too, as the caller promises.
    unsafe {
        let mut totals = [[_mm256_setzero_ps(); N]; M];
        for c in 0..n_blocks / CHUNK_BLOCKS {
            let mut sums = [[_mm256_setzero_ps(); N]; M];
            for j in 0..CHUNK_BLOCKS {
                sums = add_block(sums, w, scales, x, c, j);
            }
            totals = add_chunk(totals, sums, x, c);
        }
        if !n_blocks.is_multiple_of(CHUNK_BLOCKS) {
            let c = n_blocks / CHUNK_BLOCKS;
            let mut sums = [[_mm256_setzero_ps(); N]; M];
            for j in 0..n_blocks % CHUNK_BLOCKS {
                sums = add_block(sums, w, scales, x, c, j);
            }
            totals = add_chunk(totals, sums, x, c);
        }
        if MINS {
            for n in 0..N {
                for m in 0..M {
                    totals[m][n] = _mm256_add_ps(totals[m][n], offsets(scales[m].mins, x[n].sums));
                }
            }
        }
        totals
    }
}

/// Adds `scale · Σ q x` of one block.
#[inline(always)]
unsafe fn add_block<B: Blocks, const M: usize, const N: usize>(
    mut sums: [[__m256; N]; M],
    w: [B; M],
    scales: [Scales; M],
    x: [ActivationRow<'_>; N],
    c: usize,
    j: usize,
) -> [[__m256; N]; M] {
    let b = c * CHUNK_BLOCKS + j;
    // SAFETY: the caller of `dots` promises that there is a block b everywhere.
    unsafe {
        let mut loaded = [[_mm256_setzero_si256(); 2]; N];
        for n in 0..N {
            let p = x[n].q.as_ptr().add(b).cast::<__m256i>();
            loaded[n] = [_mm256_load_si256(p), _mm256_load_si256(p.add(1))];
        }
        let x = loaded;
        for m in 0..M {
            let [low, high] = w[m].get(c, j);
            let scale = _mm256_broadcast_ss(&*scales[m].scales.add(b));
            for n in 0..N {
                // Each lane: two sums of two products of 15 bits and 8, or 13 in Q6_K. That fits 31 bits.
                let sum = _mm256_add_epi32(_mm256_madd_epi16(low, x[n][0]), _mm256_madd_epi16(high, x[n][1]));
                sums[m][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, sums[m][n]);
            }
        }
    }
    sums
}

/// Adds a chunk's sums, times the scale that its activations share.
#[inline(always)]
unsafe fn add_chunk<const M: usize, const N: usize>(
    mut totals: [[__m256; N]; M],
    sums: [[__m256; N]; M],
    x: [ActivationRow<'_>; N],
    c: usize,
) -> [[__m256; N]; M] {
    for n in 0..N {
        // SAFETY: AVX2 and FMA, and x has a chunk c: as the caller of `dots` promises.
        unsafe {
            let scale = _mm256_broadcast_ss(&*x[n].scales.as_ptr().add(c));
            for m in 0..M {
                totals[m][n] = _mm256_fmadd_ps(sums[m][n], scale, totals[m][n]);
            }
        }
    }
    totals
}

/// Σ min · (sum of the block's activations).
#[inline(always)]
unsafe fn offsets(mins: *const f32, sums: &[f32]) -> __m256 {
    // SAFETY: AVX2 and FMA, and as many offsets as sums, which are whole chunks.
    unsafe {
        let mut total = _mm256_setzero_ps();
        for c in (0..sums.len()).step_by(CHUNK_BLOCKS) {
            let sums = _mm256_loadu_ps(sums.as_ptr().add(c));
            total = _mm256_fmadd_ps(_mm256_loadu_ps(mins.add(c)), sums, total);
        }
        total
    }
}

const _: () = assert!(CHUNK_BLOCKS == 8, "the sums of a chunk are one register");
