//! Attention by vectors: scores of many positions at once, and many elements of values at once, for some queries together
//! whose sums stay in registers.
//!
//! Where few queries read a long context, memory is the limit. Keys of a chunk are read, then its values; lines are asked for
//! half a turn ahead, one with each step, so that memory never waits: values while keys are multiplied, and the keys of the next
//! item while values are.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Block, CHUNK, CHUNK_PAGES, Inputs, Item, PagesOf, Results, Way, group, visible};
use crate::backend::PAGE_LEN;
use crate::backend::cpu::simd::kv::{self, BLOCK, Numbers};
use crate::backend::cpu::simd::math;
use crate::backend::cpu::simd::vector::Vector;

/// Queries for which it is cheaper to convert keys and values where they are used than to write them down in f32 first.
const FEW_QUERIES: usize = 4;
/// Queries that are taken together at most, with 16 registers and with 32.
const TILE: [usize; 2] = [6, 12];

/// f32s of scratch for so many queries.
pub(super) fn scratch_len(head_dim: usize, n: usize) -> usize {
    n * (head_dim + CHUNK + head_dim.next_multiple_of(PAGE_LEN) + 2) + kv::panel_len(head_dim)
}

/// Vectors `V`.
pub(super) struct Vectors<V>(PhantomData<V>);

impl<V: Vector> Way for Vectors<V> {
    #[inline(always)]
    unsafe fn run(
        inputs: Inputs<'_>,
        (block, head_kv): (&Block, usize),
        chunks: Range<usize>,
        next: Option<Item<'_>>,
        scratch: &mut [f32],
        results: &mut impl Results,
    ) {
        let mut queries = Queries::<V>::new(inputs, block, head_kv, scratch);
        // SAFETY: as the caller promises.
        unsafe {
            queries.pack();
            for chunk in chunks.clone() {
                let more = chunk + 1 < chunks.end;
                queries.chunk(chunk, if more { Some(Item { block, head_kv, chunk: chunk + 1 }) } else { next });
                for i in 0..queries.n {
                    let weighted = &queries.weighted[i * queries.width..][..inputs.spec.head_dim];
                    results.take::<V>(i, queries.max[i], queries.sum[i], weighted);
                }
            }
        }
    }
}

/// The queries of a block, and what a chunk gives for them.
struct Queries<'a, V> {
    inputs: Inputs<'a>,
    block: &'a Block,
    head_kv: usize,
    /// Queries.
    n: usize,
    /// Queries in a tile; the last ones may have less.
    tile: usize,
    /// Tiles `[Dh, tile]`, times the factor on scores.
    packed: &'a mut [f32],
    /// `[n, CHUNK]`: scores, and then their exponentials.
    scores: &'a mut [f32],
    /// `[n, width]`
    weighted: &'a mut [f32],
    width: usize,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    panel: &'a mut [f32],
    vector: PhantomData<V>,
}

impl<'a, V: Vector> Queries<'a, V> {
    #[inline(always)]
    fn new(inputs: Inputs<'a>, block: &'a Block, head_kv: usize, scratch: &'a mut [f32]) -> Self {
        let spec = inputs.spec;
        let n = inputs.n_queries(block);
        let width = spec.head_dim.next_multiple_of(PAGE_LEN);
        let (packed, rest) = scratch.split_at_mut(n * spec.head_dim);
        let (scores, rest) = rest.split_at_mut(n * CHUNK);
        let (weighted, rest) = rest.split_at_mut(n * width);
        let (max, rest) = rest.split_at_mut(n);
        let (sum, panel) = rest.split_at_mut(n);
        assert!(panel.len() >= kv::panel_len(spec.head_dim), "room for a page");
        let most = TILE[usize::from(V::REGISTERS > 16)];
        let tile = n.div_ceil(n.div_ceil(most));
        let vector = PhantomData;
        Self { inputs, block, head_kv, n, tile, packed, scores, weighted, width, max, sum, panel, vector }
    }

    /// Puts the queries side by side.
    #[inline(always)]
    unsafe fn pack(&mut self) {
        let (spec, dh) = (self.inputs.spec, self.inputs.spec.head_dim);
        for (tile, packed) in self.packed.chunks_mut(self.tile * dh).enumerate() {
            let here = packed.len() / dh;
            for r in 0..here {
                let (t, head) = self.inputs.query(self.block, self.head_kv, tile * self.tile + r);
                let q = &self.inputs.q[(t * spec.n_head + head) * dh..][..dh];
                for (d, q) in q.iter().enumerate() {
                    packed[d * here + r] = q * spec.scale;
                }
            }
        }
    }

    /// Computes a chunk for all queries, and asks memory for the keys of the `next` item.
    #[inline(always)]
    unsafe fn chunk(&mut self, chunk: usize, next: Option<Item<'_>>) {
        let item = Item { block: self.block, head_kv: self.head_kv, chunk };
        let pages = self.inputs.pages_of(item);
        // SAFETY: as the caller promises.
        unsafe {
            self.score(&pages, chunk);
            self.exponentiate(&pages, chunk);
            self.weigh(&pages, chunk, next);
        }
    }

    /// The keys or the values of the block's heads in a page, as they lie in memory.
    #[inline(always)]
    fn head(&self, page: u32) -> kv::Head<'a> {
        self.inputs.cache.head(self.inputs.spec.layer, page, self.head_kv)
    }

    /// Scores of all queries.
    #[inline(always)]
    unsafe fn score(&mut self, of_chunk: &PagesOf<'_>, chunk: usize) {
        let dh = self.inputs.spec.head_dim;
        let strips = PAGE_LEN / (2 * V::LEN);
        for page in of_chunk.range.clone() {
            let head = self.head(of_chunk.pages[page]);
            // SAFETY: pages that are visible were stored, and the slices have room for the queries.
            unsafe {
                let keys = head.unpack_keys::<V>(self.panel.as_mut_ptr(), self.n > FEW_QUERIES);
                let to = self.scores.as_mut_ptr().add((page - chunk * CHUNK_PAGES) * PAGE_LEN);
                // Sums of bytes are multiplied with scales, and so end with blocks.
                let piece = if let Numbers::Bytes(..) = keys { BLOCK } else { dh };
                for strip in 0..strips {
                    let at = strip * 2 * V::LEN;
                    for k in (0..dh).step_by(piece) {
                        let depth = piece.min(dh - k);
                        let ahead = self.ahead(head.values(), strip * dh + k, strips * dh);
                        let scales = keys.scales(k / BLOCK * PAGE_LEN + at);
                        for i in (0..self.n).step_by(self.tile) {
                            let rows = self.tile.min(self.n - i);
                            let x = X { p: self.packed.as_ptr().add(i * dh + k * rows), step: 0, row_step: 1 };
                            let w = W { numbers: keys, at: k * PAGE_LEN + at, width: PAGE_LEN, depth, ahead };
                            let to = to.add(i * CHUNK + at);
                            let to = Y { p: to, width: CHUNK, n: 2 * V::LEN, add: k > 0, scales };
                            product::<V>(rows, w, x, to);
                        }
                    }
                }
            }
        }
    }

    /// The exponentials of the scores.
    #[inline(always)]
    unsafe fn exponentiate(&mut self, of_chunk: &PagesOf<'_>, chunk: usize) {
        let Inputs { spec, step, .. } = self.inputs;
        let start = chunk * CHUNK;
        let len = of_chunk.range.end * PAGE_LEN - start;
        for i in 0..self.n {
            let visible = visible(spec, &step.rows[self.block.rows.start + i / group(spec)]);
            let first = visible.start.max(of_chunk.positions.start) - start;
            let end = visible.end.min(of_chunk.positions.end).saturating_sub(start);
            let scores = &mut self.scores[i * CHUNK..][..len];
            // SAFETY: as the caller promises.
            [self.max[i], self.sum[i]] = unsafe { softmax::<V>(scores, first..end.max(first), spec.softcap) };
        }
    }

    /// The values, weighted with these.
    #[inline(always)]
    unsafe fn weigh(&mut self, of_chunk: &PagesOf<'_>, chunk: usize, next: Option<Item<'_>>) {
        let Inputs { spec, cache, .. } = self.inputs;
        self.weighted.fill(0.0);
        let next = next.map(|item| (item, self.inputs.pages_of(item)));
        let next_head = |i: usize| {
            let (item, of_chunk) = next.as_ref()?;
            let page = of_chunk.range.clone().nth(i)?;
            Some(cache.head(spec.layer, of_chunk.pages[page], item.head_kv))
        };
        for (i, page) in of_chunk.range.clone().enumerate() {
            let head = self.head(of_chunk.pages[page]);
            // Where there is no next one, what is there already.
            let next = next_head(i).unwrap_or(head);
            let depth = PAGE_LEN.min(of_chunk.positions.end - page * PAGE_LEN);
            let strips = spec.head_dim.div_ceil(2 * V::LEN);
            // SAFETY: as above.
            unsafe {
                let (values, width) = head.unpack_values::<V>(self.panel.as_mut_ptr(), self.n > FEW_QUERIES);
                let from = self.scores.as_ptr().add((page - chunk * CHUNK_PAGES) * PAGE_LEN);
                let by_scales = self.multiply_scales(from, values);
                for strip in 0..strips {
                    let ahead = self.ahead(next.keys(), strip * depth, strips * depth);
                    let at = strip * 2 * V::LEN;
                    for i in (0..self.n).step_by(self.tile) {
                        let x = match by_scales {
                            None => X { p: from.add(i * CHUNK), step: 1, row_step: CHUNK },
                            Some(p) => X { p: p.add(at / BLOCK * self.n * PAGE_LEN), step: 1, row_step: PAGE_LEN },
                        };
                        let w = W { numbers: values, at, width, depth, ahead };
                        let to = self.weighted.as_mut_ptr().add(i * self.width + at);
                        let n = (2 * V::LEN).min(self.width - at);
                        let to = Y { p: to, width: self.width, n, add: true, scales: None };
                        product::<V>(self.tile.min(self.n - i), w, x, to);
                    }
                }
            }
        }
    }

    /// The exponentials of a page, times the scales of values if there are any: for each block of elements `[n, PAGE_LEN]`, in the panel, which nothing else
    /// needs for bytes.
    #[inline(always)]
    unsafe fn multiply_scales(&mut self, from: *const f32, values: Numbers) -> Option<*const f32> {
        let (scales, panel) = (values.scales(0)?, self.panel.as_mut_ptr());
        for b in 0..self.width / BLOCK {
            for slots in (0..PAGE_LEN).step_by(V::LEN) {
                // SAFETY: there is a scale for each position, and for few queries room in the panel.
                unsafe {
                    let scale = V::load_half(scales.add(b * PAGE_LEN + slots));
                    for i in 0..self.n {
                        let to = panel.add((b * self.n + i) * PAGE_LEN + slots);
                        V::load(from.add(i * CHUNK + slots)).mul(scale).store(to);
                    }
                }
            }
        }
        Some(panel.cast_const())
    }

    /// What is asked for from a step on, of `steps` in which all of `bytes` are. Where there are several tiles keys and values are read as often,
    /// and memory is waited for once.
    #[inline(always)]
    fn ahead(&self, bytes: &[u8], first: usize, steps: usize) -> Ahead {
        let step = if self.n > self.tile { 0 } else { bytes.len() / steps };
        Ahead { p: bytes.as_ptr().wrapping_add(first * step), step }
    }
}

/// Makes exponentials of the scores of one query in `visible`, less the largest, and zeros of all others; gives the largest,
/// and the sum. Whole vectors.
#[inline(always)]
unsafe fn softmax<V: Vector>(scores: &mut [f32], visible: Range<usize>, softcap: Option<f32>) -> [f32; 2] {
    if visible.is_empty() {
        scores.fill(0.0);
        return [f32::NEG_INFINITY, 0.0];
    }
    let (p, whole) = (scores.as_mut_ptr(), visible.start / V::LEN * V::LEN..visible.end.next_multiple_of(V::LEN));
    // SAFETY: scores are whole pages, and so whole vectors.
    unsafe {
        if let Some(cap) = softcap {
            for i in whole.clone().step_by(V::LEN) {
                let score = V::load(p.add(i)).div(V::splat(cap));
                V::splat(cap).mul(math::tanh(score)).store(p.add(i));
            }
        }
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let mut max = V::splat(f32::NEG_INFINITY);
        for i in whole.clone().step_by(V::LEN) {
            max = max.max(V::load(p.add(i)));
        }
        let largest = max.largest();
        let mut sum = V::splat(0.0);
        for i in whole.step_by(V::LEN) {
            let e = math::exp(V::load(p.add(i)).sub(V::splat(largest)));
            e.store(p.add(i));
            sum = sum.add(e);
        }
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        [largest, sum.sum()]
    }
}

/// Columns of a matrix with `depth` rows of `width` numbers: from number `at` on.
#[derive(Clone, Copy)]
struct W {
    numbers: Numbers,
    at: usize,
    width: usize,
    depth: usize,
    ahead: Ahead,
}

/// What memory is asked for meanwhile: a line with each row, so many bytes behind the one before.
#[derive(Clone, Copy)]
struct Ahead {
    p: *const u8,
    step: usize,
}

/// Rows of x: number k of row r is at `k · step + r · row_step`; a step of 0 stands for as many as there are rows.
#[derive(Clone, Copy)]
struct X {
    p: *const f32,
    step: usize,
    row_step: usize,
}

/// Where the product goes, the first n columns, perhaps times scales in half precision: rows `width` apart.
#[derive(Clone, Copy)]
struct Y {
    p: *mut f32,
    width: usize,
    n: usize,
    add: bool,
    scales: Option<*const u16>,
}

/// y = x · w, or what is added to y: `rows` rows, two vectors of columns.
#[inline(always)]
unsafe fn product<V: Vector>(rows: usize, w: W, x: X, y: Y) {
    // SAFETY: as the caller promises.
    unsafe {
        match (rows, w.numbers) {
            (1, Numbers::Halves(p)) => tile::<V, 1>(|i| V::load_half(p.add(i)), w, x, y),
            (2, Numbers::Halves(p)) => tile::<V, 2>(|i| V::load_half(p.add(i)), w, x, y),
            (3, Numbers::Halves(p)) => tile::<V, 3>(|i| V::load_half(p.add(i)), w, x, y),
            (4, Numbers::Halves(p)) => tile::<V, 4>(|i| V::load_half(p.add(i)), w, x, y),
            (1, Numbers::Bytes(p, _)) => tile::<V, 1>(|i| V::load_i8(p.add(i)), w, x, y),
            (2, Numbers::Bytes(p, _)) => tile::<V, 2>(|i| V::load_i8(p.add(i)), w, x, y),
            (3, Numbers::Bytes(p, _)) => tile::<V, 3>(|i| V::load_i8(p.add(i)), w, x, y),
            (4, Numbers::Bytes(p, _)) => tile::<V, 4>(|i| V::load_i8(p.add(i)), w, x, y),
            (1, Numbers::Floats(p)) => tile::<V, 1>(|i| V::load(p.add(i)), w, x, y),
            (2, Numbers::Floats(p)) => tile::<V, 2>(|i| V::load(p.add(i)), w, x, y),
            (3, Numbers::Floats(p)) => tile::<V, 3>(|i| V::load(p.add(i)), w, x, y),
            (4, Numbers::Floats(p)) => tile::<V, 4>(|i| V::load(p.add(i)), w, x, y),
            (5, Numbers::Floats(p)) => tile::<V, 5>(|i| V::load(p.add(i)), w, x, y),
            (6, Numbers::Floats(p)) => tile::<V, 6>(|i| V::load(p.add(i)), w, x, y),
            (7, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 7>(|i| V::load(p.add(i)), w, x, y),
            (8, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 8>(|i| V::load(p.add(i)), w, x, y),
            (9, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 9>(|i| V::load(p.add(i)), w, x, y),
            (10, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 10>(|i| V::load(p.add(i)), w, x, y),
            (11, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 11>(|i| V::load(p.add(i)), w, x, y),
            (12, Numbers::Floats(p)) if V::REGISTERS > 16 => tile::<V, 12>(|i| V::load(p.add(i)), w, x, y),
            (rows, _) => unreachable!("tiles of {rows} rows"),
        }
    }
}

#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize>(load: impl Fn(usize) -> V, w: W, x: X, y: Y) {
    let step = if x.step == 0 { R } else { x.step };
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        for k in 0..w.depth {
            let at = w.at + k * w.width;
            let weights = [load(at), load(at + V::LEN)];
            V::prefetch(w.ahead.p.wrapping_add(k * w.ahead.step), false);
            for r in 0..R {
                let number = V::splat(*x.p.add(k * step + r * x.row_step));
                for v in 0..2 {
                    sums[r][v] = sums[r][v].mul_add(weights[v], number);
                }
            }
        }
        if let Some(scales) = y.scales {
            for v in 0..2 {
                let scale = V::load_half(scales.add(v * V::LEN));
                for r in 0..R {
                    sums[r][v] = sums[r][v].mul(scale);
                }
            }
        }
        for r in 0..R {
            for v in 0..2 {
                let to = y.p.add(r * y.width + v * V::LEN);
                if y.n == 2 * V::LEN {
                    let sum = if y.add { V::load(to).add(sums[r][v]) } else { sums[r][v] };
                    sum.store(to);
                } else {
                    let n = V::LEN.min(y.n.saturating_sub(v * V::LEN));
                    let sum = if y.add { V::load_first(to, n).add(sums[r][v]) } else { sums[r][v] };
                    sum.store_first(to, n);
                }
            }
        }
    }
}
