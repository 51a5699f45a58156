//! Attention by tiles, for queries of many rows.
//!
//! Keys and values of a chunk are split into brain floats once for all queries of a block, and stay in the second-level cache. Queries
//! then pass in pairs of tiles: scores of a page at a time, their exponentials, which are split as well, and the weighted values
//! of all pages in one go. A product is h · h + l · h + h · l, as in [`split`]; numbers in half precision are sums of two brain
//! floats without loss, so that nothing is lost of keys and values.
//!
//! Words of a tile are pairs of numbers k and k + 16 of the 32 of a step, on both sides: so two registers are one line as they are.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Line, Sums, TILE_DEPTH, TILE_ROWS, Tiles, split};
use crate::backend::cpu::simd::attention::{
    Block, CHUNK_PAGES, Inputs, Item, PagesOf, Partials, Results, Way, Whole, group, visible, visible_to_any,
};
use crate::backend::cpu::simd::avx512::vector::Lanes;
use crate::backend::cpu::simd::kv::{self, Head, Numbers};
use crate::backend::cpu::simd::math;
use crate::backend::cpu::simd::vector::Vector;
use crate::backend::{KvFormat, PAGE_LEN};

/// Lines of a step of two tiles in two parts.
const STEP: usize = 4 * TILE_ROWS;

const _: () = assert!(PAGE_LEN == TILE_DEPTH && PAGE_LEN == 2 * TILE_ROWS && TILE_ROWS == Lanes::LEN);

/// See [`attention::partials`](crate::backend::cpu::simd::attention::partials).
pub(in crate::backend::cpu::simd) fn partials(partials: Partials<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    fn run(partials: Partials<'_>) {
        // SAFETY: the processor has AMX, or this would not run.
        unsafe { partials.by::<ByTiles>() }
    }
    assert!(super::available(), "the processor was asked before");
    // SAFETY: the processor has AMX, and so AVX-512.
    unsafe { run(partials) }
}

/// See [`attention::whole`](crate::backend::cpu::simd::attention::whole).
pub(in crate::backend::cpu::simd) fn whole(whole: Whole<'_, '_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    fn run(whole: Whole<'_, '_>) {
        // SAFETY: as above.
        unsafe { whole.by::<Lanes, ByTiles>() }
    }
    assert!(super::available(), "the processor was asked before");
    // SAFETY: as above.
    unsafe { run(whole) }
}

/// Lines of each thing that a task has at hand.
struct Sizes {
    /// Pairs of tiles of queries, `[Dh / 32][l0, l1, h0, h1]` each; an odd last tile is `[Dh / 32][l, h]`.
    queries: usize,
    /// For each page `[Dh / 32][h0, h1, l0, l1]`, and as much for values: for each 32 of their elements `[page][h0, h1, l0, l1]`.
    keys: usize,
    /// Exponentials of a pair of tiles, like queries, a step to a page.
    exponentials: usize,
    /// Scores of a pair of tiles: for each page `[0·0, 0·1, 1·0, 1·1]`, queries by positions.
    scores: usize,
    /// Weighted values of a pair of tiles.
    weighted: usize,
    /// A page in f32.
    panel: usize,
}

impl Sizes {
    fn new(head_dim: usize, n_queries: usize) -> Self {
        let steps = head_dim.div_ceil(TILE_DEPTH);
        Self {
            queries: n_queries.div_ceil(2 * TILE_ROWS) * steps * STEP,
            keys: CHUNK_PAGES * steps * STEP,
            exponentials: CHUNK_PAGES * STEP,
            scores: CHUNK_PAGES * STEP,
            weighted: 2 * TILE_ROWS * 2 * steps,
            panel: kv::panel_len(head_dim).div_ceil(TILE_ROWS),
        }
    }

    fn total(&self) -> usize {
        self.queries + 2 * self.keys + self.exponentials + self.scores + self.weighted + self.panel
    }
}

/// f32s of scratch for so many queries.
pub(in crate::backend::cpu::simd) fn scratch_len(head_dim: usize, n_queries: usize) -> usize {
    // One line more for alignment.
    (Sizes::new(head_dim, n_queries).total() + 1) * TILE_ROWS
}

struct ByTiles;

impl Way for ByTiles {
    #[inline(always)]
    unsafe fn run(
        inputs: Inputs<'_>,
        (block, head_kv): (&Block, usize),
        chunks: Range<usize>,
        _next: Option<Item<'_>>,
        scratch: &mut [f32],
        results: &mut impl Results,
    ) {
        let mut queries = Queries::new(inputs, block, head_kv, scratch);
        // SAFETY: as the caller promises.
        unsafe {
            queries.pack();
            for chunk in chunks {
                let pages = inputs.pages_of(Item { block, head_kv, chunk });
                queries.unpack(&pages);
                for first in (0..queries.n).step_by(2 * queries.tile_rows) {
                    queries.pair(first, &pages, results);
                }
            }
        }
    }
}

/// The queries of a block, and room for what is computed of them and a chunk.
struct Queries<'a> {
    inputs: Inputs<'a>,
    block: &'a Block,
    head_kv: usize,
    /// Queries.
    n: usize,
    /// Queries in a tile; those below in the last one are undefined.
    tile_rows: usize,
    tiles: Tiles,
    /// Steps of a query.
    steps: usize,
    queries: &'a mut [Line],
    keys: &'a mut [Line],
    values: &'a mut [Line],
    exponentials: &'a mut [Line],
    scores: &'a mut [Sums],
    weighted: &'a mut [f32],
    panel: &'a mut [f32],
}

/// Tiles of queries that are multiplied together: those of a block from `first` to `end`.
#[derive(Clone, Copy)]
struct Pair {
    first: usize,
    end: usize,
    /// One or two.
    n_tiles: usize,
}

impl Pair {
    /// The tile and the row in it of query i.
    #[inline(always)]
    fn place(self, tile_rows: usize, i: usize) -> (usize, usize) {
        let i = i - self.first;
        if i < tile_rows { (0, i) } else { (1, i - tile_rows) }
    }

    /// The line of the lower part of query i in a step; as many tiles behind it as there are is the higher part.
    #[inline(always)]
    fn line(self, tile_rows: usize, step: usize, i: usize) -> usize {
        let (tile, row) = self.place(tile_rows, i);
        (2 * step * self.n_tiles + tile) * TILE_ROWS + row
    }
}

impl<'a> Queries<'a> {
    fn new(inputs: Inputs<'a>, block: &'a Block, head_kv: usize, scratch: &'a mut [f32]) -> Self {
        let dh = inputs.spec.head_dim;
        let n = inputs.n_queries(block);
        let sizes = Sizes::new(dh, n);
        let unaligned = scratch.as_ptr().align_offset(align_of::<Line>());
        let mut rest = &mut scratch[unaligned..][..sizes.total() * TILE_ROWS];
        let mut take = |lines: usize| rest.split_off_mut(..lines * TILE_ROWS).expect("room for all");
        // Tiles of one size, so that none is left with a single query.
        let tile_rows = n.div_ceil(n.div_ceil(TILE_ROWS));
        Self {
            inputs,
            block,
            head_kv,
            n,
            tile_rows,
            tiles: Tiles::new(tile_rows, size_of::<Line>()),
            steps: dh.div_ceil(TILE_DEPTH),
            queries: bytemuck::cast_slice_mut(take(sizes.queries)),
            keys: bytemuck::cast_slice_mut(take(sizes.keys)),
            values: bytemuck::cast_slice_mut(take(sizes.keys)),
            exponentials: bytemuck::cast_slice_mut(take(sizes.exponentials)),
            scores: bytemuck::cast_slice_mut(take(sizes.scores)),
            weighted: take(sizes.weighted),
            panel: take(sizes.panel),
        }
    }

    fn pair_of(&self, first: usize) -> Pair {
        let end = self.n.min(first + 2 * self.tile_rows);
        Pair { first, end, n_tiles: (end - first).div_ceil(self.tile_rows) }
    }

    /// The tiles of a pair.
    fn tiles_of(&self, pair: Pair) -> Range<usize> {
        let start = pair.first / (2 * self.tile_rows) * self.steps * STEP;
        start..start + self.steps * STEP / 2 * pair.n_tiles
    }

    /// Splits the queries, times the factor on scores, into tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    #[inline]
    fn pack(&mut self) {
        let Inputs { spec, q, .. } = self.inputs;
        // SAFETY: the processor has AVX-512.
        let scale = unsafe { Lanes::splat(spec.scale) };
        for first in (0..self.n).step_by(2 * self.tile_rows) {
            let pair = self.pair_of(first);
            let range = self.tiles_of(pair);
            let lines = &mut self.queries[range];
            for i in first..pair.end {
                let (t, head) = self.inputs.query(self.block, self.head_kv, i);
                let q = &q[(t * spec.n_head + head) * spec.head_dim..][..spec.head_dim];
                for (step, q) in q.chunks(TILE_DEPTH).enumerate() {
                    let (a, b) = q.split_at(q.len().min(TILE_ROWS));
                    // SAFETY: the processor has AVX-512, and no more is read than there is.
                    let [high, low] = unsafe {
                        let a = Lanes::load_first(a.as_ptr(), a.len()).mul(scale);
                        let b = Lanes::load_first(b.as_ptr(), b.len()).mul(scale);
                        split::split(_mm512_castps_si512(a.0), _mm512_castps_si512(b.0))
                    };
                    let line = pair.line(self.tile_rows, step, i);
                    split::store(&mut lines[line], low);
                    split::store(&mut lines[line + pair.n_tiles * TILE_ROWS], high);
                }
            }
        }
    }

    /// Whether numbers come by way of a panel: halves are split where they are.
    fn in_f32(&self) -> bool {
        self.inputs.cache.format() != KvFormat::F16
    }

    /// Splits keys and values of a chunk into tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    #[inline]
    fn unpack(&mut self, of_chunk: &PagesOf<'_>) {
        let Inputs { spec, cache, .. } = self.inputs;
        for (i, page) in of_chunk.range.clone().enumerate() {
            let head = cache.head(spec.layer, of_chunk.pages[page], self.head_kv);
            // What is behind the last position is anything.
            let depth = PAGE_LEN.min(of_chunk.positions.end - page * PAGE_LEN);
            // SAFETY: the processor has AVX-512, the panel has room for a page, and what is read of a page is there.
            unsafe {
                self.unpack_keys(head, i);
                self.unpack_values(head, i, depth);
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn unpack_keys(&mut self, head: Head<'_>, page: usize) {
        let dh = self.inputs.spec.head_dim;
        // SAFETY: as the caller promises; there are keys of Dh elements.
        unsafe {
            let keys = head.unpack_keys::<Lanes>(self.panel.as_mut_ptr(), self.in_f32());
            for (step, lines) in self.keys[page * self.steps * STEP..][..self.steps * STEP].chunks_mut(STEP).enumerate()
            {
                for line in 0..2 * TILE_ROWS {
                    let d = step * TILE_DEPTH + line % TILE_ROWS;
                    let at = d * PAGE_LEN + line / TILE_ROWS * TILE_ROWS;
                    let a = load(keys, at, d < dh);
                    let b = load(keys, at + TILE_ROWS * PAGE_LEN, d + TILE_ROWS < dh);
                    store(lines, line, a, b);
                }
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn unpack_values(&mut self, head: Head<'_>, page: usize, depth: usize) {
        // SAFETY: as the caller promises; behind the elements of a position there are some that can be read.
        unsafe {
            let (values, width) = head.unpack_values::<Lanes>(self.panel.as_mut_ptr(), self.in_f32());
            for (step, of_step) in self.values.chunks_mut(CHUNK_PAGES * STEP).enumerate() {
                let lines = &mut of_step[page * STEP..][..STEP];
                for line in 0..2 * TILE_ROWS {
                    let slot = line % TILE_ROWS;
                    let at = slot * width + step * TILE_DEPTH + line / TILE_ROWS * TILE_ROWS;
                    let a = load(values, at, slot < depth);
                    let b = load(values, at + TILE_ROWS * width, slot + TILE_ROWS < depth);
                    store(lines, line, a, b);
                }
            }
        }
    }

    /// Computes a chunk for a pair of tiles of queries from the `first` on.
    ///
    /// # Safety
    /// The processor has AMX.
    #[inline(always)]
    unsafe fn pair(&mut self, first: usize, of_chunk: &PagesOf<'_>, results: &mut impl Results) {
        let Inputs { spec, step, .. } = self.inputs;
        let pair = self.pair_of(first);
        let start = self.block.rows.start;
        let rows = &step.rows[start + first / group(spec)..start + (pair.end - 1) / group(spec) + 1];
        let seen = visible_to_any(spec, rows);
        let seen = seen.start.max(of_chunk.positions.start)..seen.end.min(of_chunk.positions.end);
        if seen.is_empty() {
            let nothing = &self.weighted[..spec.head_dim];
            // SAFETY: the processor has AVX-512.
            (first..pair.end).for_each(|i| unsafe { results.take::<Lanes>(i, f32::NEG_INFINITY, 0.0, nothing) });
            return;
        }
        let pages = seen.start / PAGE_LEN - of_chunk.range.start..seen.end.div_ceil(PAGE_LEN) - of_chunk.range.start;
        let queries = &self.queries[self.tiles_of(pair)];
        for page in pages.clone() {
            let keys = &self.keys[page * self.steps * STEP..][..self.steps * STEP];
            multiply(&self.tiles, pair, queries, keys, &mut self.scores[page]);
        }
        let mut softmax = [[0.0; 2]; 2 * TILE_ROWS];
        for (i, softmax) in (first..pair.end).zip(&mut softmax) {
            let row = &step.rows[start + i / group(spec)];
            // SAFETY: the processor has AVX-512.
            *softmax = unsafe { self.exponentiate(pair, i, visible(spec, row), pages.clone(), of_chunk.range.start) };
        }
        let exponentials = &self.exponentials[..pages.len() * STEP / 2 * pair.n_tiles];
        let width = self.steps * TILE_DEPTH;
        let mut sums = Sums([[[0.0; TILE_ROWS]; TILE_ROWS]; 4]);
        for (j, values) in self.values.chunks(CHUNK_PAGES * STEP).enumerate() {
            let values = &values[pages.start * STEP..pages.end * STEP];
            multiply(&self.tiles, pair, exponentials, values, &mut sums);
            for (i, to) in self.weighted.chunks_exact_mut(width).enumerate().take(pair.end - first) {
                let (tile, row) = (i / self.tile_rows, i % self.tile_rows);
                for (half, to) in to[j * TILE_DEPTH..][..TILE_DEPTH].chunks_exact_mut(TILE_ROWS).enumerate() {
                    to.copy_from_slice(&sums.0[2 * tile + half][row]);
                }
            }
        }
        for (i, (weighted, [max, sum])) in (first..pair.end).zip(self.weighted.chunks_exact(width).zip(softmax)) {
            // SAFETY: as above.
            unsafe { results.take::<Lanes>(i, max, sum, &weighted[..spec.head_dim]) };
        }
    }

    /// Makes exponentials of the scores of query i at visible positions, less the largest, and zeros of all others, and splits them; gives
    /// the largest score, and the sum. `start` is the first page of the chunk.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn exponentiate(
        &mut self,
        pair: Pair,
        i: usize,
        visible: Range<usize>,
        pages: Range<usize>,
        start: usize,
    ) -> [f32; 2] {
        let (tile, row) = pair.place(self.tile_rows, i);
        // A bit for each position of a page.
        let mask = |page: usize| {
            let at = (start + page) * PAGE_LEN;
            let below = |end: usize| ((1u64 << end.saturating_sub(at).min(PAGE_LEN)) - 1) as u32;
            below(visible.end) & !below(visible.start)
        };
        let halves = |mask: u32| [mask as u16, (mask >> TILE_ROWS) as u16];
        // SAFETY: as the caller promises.
        unsafe {
            let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
            for page in pages.clone() {
                for (half, mask) in halves(mask(page)).into_iter().enumerate() {
                    let scores = self.scores[page].0[2 * tile + half][row].as_mut_ptr();
                    let mut score = Lanes::load(scores);
                    if let Some(cap) = self.inputs.spec.softcap {
                        score = Lanes::splat(cap).mul(math::tanh(score.div(Lanes::splat(cap))));
                        score.store(scores);
                    }
                    max = _mm512_mask_max_ps(max, mask, max, score.0);
                }
            }
            let largest = _mm512_reduce_max_ps(max);
            let mut sum = _mm512_setzero_ps();
            for (step, page) in pages.enumerate() {
                let [of_a, of_b] = halves(mask(page));
                let scores = &self.scores[page].0;
                let a = exponential(&scores[2 * tile][row], largest, of_a);
                let b = exponential(&scores[2 * tile + 1][row], largest, of_b);
                sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
                let [high, low] = split::split(_mm512_castps_si512(a), _mm512_castps_si512(b));
                let line = pair.line(self.tile_rows, step, i);
                split::store(&mut self.exponentials[line], low);
                split::store(&mut self.exponentials[line + pair.n_tiles * TILE_ROWS], high);
            }
            [largest, _mm512_reduce_add_ps(sum)]
        }
    }
}

/// The products of a pair of tiles with two of the other side.
#[inline(always)]
fn multiply(tiles: &Tiles, pair: Pair, x: &[Line], w: &[Line], sums: &mut Sums) {
    let steps = w.len() / STEP;
    assert_eq!(x.len(), steps * STEP / 2 * pair.n_tiles, "as many steps on both sides");
    // SAFETY: both have the tiles of as many steps.
    unsafe {
        match pair.n_tiles {
            1 => tiles.one_by_two(x.as_ptr(), w.as_ptr(), steps, sums),
            _ => tiles.two_by_two(x.as_ptr(), w.as_ptr(), steps, sums),
        }
    }
}

/// The exponentials of scores less the largest, where the mask says so, and zeros.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn exponential(scores: &[f32; TILE_ROWS], largest: f32, mask: u16) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        let score = Lanes::load(scores.as_ptr());
        _mm512_maskz_mov_ps(mask, math::exp(score.sub(Lanes::splat(largest))).0)
    }
}

/// Sixteen numbers from the i-th on, if they are there, else zeros.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn load(numbers: Numbers, i: usize, there: bool) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        match numbers {
            _ if !there => _mm512_setzero_ps(),
            Numbers::Halves(p) => Lanes::load_half(p.add(i)).0,
            Numbers::Floats(p) => Lanes::load(p.add(i)).0,
            Numbers::Bytes(..) => unreachable!("these were asked for in f32"),
        }
    }
}

/// Splits a pair of registers into a line of a higher tile, and of the lower one, which is two tiles behind it.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn store(lines: &mut [Line], line: usize, a: __m512, b: __m512) {
    // SAFETY: as the caller promises.
    unsafe {
        let [high, low] = split::split(_mm512_castps_si512(a), _mm512_castps_si512(b));
        split::store(&mut lines[line], high);
        split::store(&mut lines[line + 2 * TILE_ROWS], low);
    }
}
