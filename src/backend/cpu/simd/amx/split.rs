//! f32s as sums of two brain floats, in the order in which tiles are loaded.
//!
//! The higher part is the number rounded to eight bits, the lower one what is left, cut off after eight: what is lost of a number
//! is at most 2⁻¹⁶ of it, and of a product h · h + l · h + h · l hardly more.

use std::arch::x86_64::*;

use super::{Line, TILE_DEPTH, TILE_ROWS};
use crate::backend::cpu::threads::Pool;

/// Rows of x, split and packed into tiles.
///
/// Tiles have the same number of rows as far as they can, of sixteen; those below are undefined. Two tiles of rows go together, as
/// `[K / 32][l0, l1, h0, h1]`; an odd last one is `[K / 32][l, h]`.
#[derive(Debug, Default)]
pub(in crate::backend::cpu) struct Packed {
    pub(super) n_rows: usize,
    pub(super) k: usize,
    /// Rows in a tile, but for the last one.
    pub(super) tile_rows: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Packs the rows x `[T, K]`.
    pub(in crate::backend::cpu) fn fill(&mut self, pool: &mut Pool, x: &[f32], k: usize) {
        let n_rows = x.len() / k;
        (self.n_rows, self.k) = (n_rows, k);
        // Tiles of one size, so that none is left with a single row.
        self.tile_rows = n_rows.div_ceil(n_rows.div_ceil(TILE_ROWS));
        let (len, rows) = (2 * self.tile_lines(), 2 * self.tile_rows);
        let total = n_rows.div_ceil(self.tile_rows) * self.tile_lines();
        self.lines.resize(self.lines.len().max(total), Line::ZERO);
        let blocks = self.lines[..total].chunks_mut(len).zip(x.chunks(rows * k));
        let tile_rows = self.tile_rows;
        assert!(super::available(), "the processor was asked before");
        // SAFETY: the processor has AMX, and so AVX-512.
        pool.each(blocks.collect(), |(lines, x)| unsafe { pack(x, k, tile_rows, lines) });
    }

    /// Bytes that are held.
    pub(in crate::backend::cpu) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Lines of a tile of rows, in all steps.
    fn tile_lines(&self) -> usize {
        2 * TILE_ROWS * self.k.div_ceil(TILE_DEPTH)
    }

    /// All rows, two tiles of them at a time.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let (tile_rows, n_tiles) = (self.tile_rows, self.n_rows.div_ceil(self.tile_rows));
        let blocks = self.lines[..n_tiles * self.tile_lines()].chunks(2 * self.tile_lines()).enumerate();
        blocks.map(move |(i, lines)| {
            let first = i * 2 * tile_rows;
            Block { lines, first, n_rows: (2 * tile_rows).min(self.n_rows - first), tile_rows }
        })
    }
}

/// Rows of x in two tiles, or in one.
pub(super) struct Block<'a> {
    pub(super) lines: &'a [Line],
    pub(super) first: usize,
    pub(super) n_rows: usize,
    /// Rows in a tile, but for the last one.
    pub(super) tile_rows: usize,
}

impl Block<'_> {
    pub(super) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(self.tile_rows)
    }
}

/// Packs rows x `[_, K]` of up to two tiles.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack(x: &[f32], k: usize, tile_rows: usize, lines: &mut [Line]) {
    // Words come out in pairs of both registers: the lower halves of words first, then the upper ones.
    let order: [u16; TILE_DEPTH] = std::array::from_fn(|i| 2 * i as u16 % 32 + i as u16 / 16);
    // SAFETY: 32 words are a register.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let steps = k.div_ceil(TILE_DEPTH);
    let tiles = lines.len() / (2 * TILE_ROWS * steps);
    for (t, x) in x.chunks_exact(k).enumerate() {
        let low = t / tile_rows * TILE_ROWS + t % tile_rows;
        let high = low + tiles * TILE_ROWS;
        for (x, step) in x.chunks(TILE_DEPTH).zip(lines.chunks_exact_mut(2 * tiles * TILE_ROWS)) {
            let there = (1u64 << x.len()) - 1;
            // SAFETY: of each half as many numbers are read as there are.
            let [a, b] = unsafe {
                [0, 16].map(|i| _mm512_maskz_loadu_epi32((there >> i) as u16, x.as_ptr().wrapping_add(i).cast()))
            };
            let [h, l] = split(a, b);
            store(&mut step[low], _mm512_permutexvar_epi16(order, l));
            store(&mut step[high], _mm512_permutexvar_epi16(order, h));
        }
    }
}

/// Splits weights `[32, 16]`, one weight row to a column, into the parts of a tile of weight rows.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn split_weights(weights: &[f32], high: &mut [Line], low: &mut [Line]) {
    for ((two, high), low) in weights.as_chunks::<{ 2 * TILE_ROWS }>().0.iter().zip(high).zip(low) {
        // SAFETY: each half is a register.
        let [a, b] = unsafe { [0, TILE_ROWS].map(|i| _mm512_loadu_si512(two[i..].as_ptr().cast())) };
        let [h, l] = split(a, b);
        store(high, h);
        store(low, l);
    }
}

/// The higher and the lower parts of `a` in the lower halves of words, those of `b` in the upper ones.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn split(a: __m512i, b: __m512i) -> [__m512i; 2] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // Half of the last bit that is kept: what is cut off thereafter rounds to the nearest.
    let half = _mm512_set1_epi32(0x8000);
    let rounded = |x| _mm512_and_si512(_mm512_add_epi32(x, half), upper);
    let rest = |x, h| _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(h)));
    let (ah, bh) = (rounded(a), rounded(b));
    let (al, bl) = (rest(a, ah), rest(b, bh));
    // The upper halves of both.
    let both = |a, b| _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(a), b);
    // What is left is cut off, not rounded: so a NaN, which may have become any number above, stays one here.
    [both(ah, bh), both(al, bl)]
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(line: &mut Line, words: __m512i) {
    // SAFETY: a line is a register.
    unsafe { _mm512_store_si512((&raw mut *line).cast(), words) }
}
