//! The product of a weight row with one row of x, which runs as fast as memory gives the row.
//!
//! One row after the other, its scales taken where they are met: several rows at once, or a pass for their scales before,
//! are fewer instructions, but then addresses jump, and the processor's own prefetcher loses the thread.

use std::arch::x86_64::*;

use super::dot::{Sums, add_two, lines};
use super::formats::Unpack;
use super::scales::{ChunkScales, chunk};
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS};
use crate::backend::cpu::simd::avx2;

/// Bytes from what is multiplied to what is asked of memory for the first-level cache.
const AHEAD: usize = 2048;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Lines at the start of the next page that are asked for.
const HEAD_LINES: usize = 3;

/// Σ w x of each row.
///
/// # Safety
/// The processor has AVX-512, and the rows the blocks that x has; with groups of one block, 64 more bytes can be read.
#[inline(always)]
pub(super) unsafe fn dots<F: Unpack, const N: usize>(rows: [*const u8; N], x: ActivationRow<'_>) -> [f32; N] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut halves = [_mm256_setzero_ps(); N];
        for (half, row) in halves.iter_mut().zip(rows) {
            let total = dot::<F>(row, x);
            *half = _mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps::<1>(total));
        }
        avx2::sums(halves)
    }
}

/// Σ w x, in lanes.
#[inline(always)]
unsafe fn dot<F: Unpack>(row: *const u8, x: ActivationRow<'_>) -> __m512 {
    // SAFETY: as the caller of `dots` promises.
    unsafe {
        let mut product = Product { total: _mm512_setzero_ps(), offsets: _mm512_setzero_ps() };
        let (n_whole, rest) = (x.n_blocks / CHUNK_BLOCKS, x.n_blocks % CHUNK_BLOCKS);
        for c in 0..n_whole {
            product.add_chunk::<F>(row, x, c, CHUNK_BLOCKS);
        }
        if F::GROUP == 1 && rest > 0 {
            product.add_chunk::<F>(row, x, n_whole, rest);
        }
        if F::MINS { _mm512_add_ps(product.total, product.offsets) } else { product.total }
    }
}

struct Product {
    total: __m512,
    offsets: __m512,
}

impl Product {
    /// Adds the `n` blocks of chunk c.
    #[inline(always)]
    unsafe fn add_chunk<F: Unpack>(&mut self, row: *const u8, x: ActivationRow<'_>, c: usize, n: usize) {
        // SAFETY: the caller has AVX-512; the row and x have that many blocks in the chunk, and sums of a whole one.
        unsafe {
            let p = row.add(c * const { CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES });
            prefetch(p, n / F::GROUP * F::GROUP_BYTES);
            let ChunkScales { scales, mins } = chunk::<F>(p, n);
            if F::MINS {
                let sums = if F::HALF_MINS {
                    _mm512_loadu_ps(x.half_sums.as_ptr().add(2 * CHUNK_BLOCKS * c))
                } else {
                    _mm512_zextps256_ps512(_mm256_loadu_ps(x.sums.as_ptr().add(CHUNK_BLOCKS * c)))
                };
                self.offsets = _mm512_fmadd_ps(mins, sums, self.offsets);
            }
            let mut sums = Sums::new();
            for j in 0..n.div_ceil(2) {
                let (group, in_group) = (2 * j / F::GROUP, 2 * j % F::GROUP);
                let q = F::quants(p.add(group * F::GROUP_BYTES), in_group / 2);
                let x = lines::<F>(x, c * CHUNK_BLOCKS + 2 * j);
                add_two::<F>(&mut sums, q, x, F::ORDER.of_pair(_mm512_castps256_ps512(scales), j));
            }
            self.total = sums.add_to::<F>(self.total, *x.scales.get_unchecked(c), _mm256_cvtss_f32(scales));
        }
    }
}

/// Asks memory for what follows the `n_bytes` that are read from `p` on.
///
/// The processor prefetches within a page by itself, some lines ahead; what it needs is to be led into the next page.
#[inline(always)]
fn prefetch(p: *const u8, n_bytes: usize) {
    for line in (0..n_bytes).step_by(64) {
        // SAFETY: a hint, which is ignored where there is nothing; so below.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + line).cast()) };
    }
    let in_page = p.addr() % PAGE;
    if in_page < n_bytes {
        let next = p.wrapping_add(PAGE - in_page);
        for line in 0..HEAD_LINES {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast()) };
        }
    }
}
