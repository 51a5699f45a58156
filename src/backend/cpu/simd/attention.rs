//! Attention over the cached positions, several query heads and rows at a time: those that share keys and values.
//!
//! Positions are taken in chunks of [`CHUNK`]. Of each chunk come, for each query, the largest score, the sum of the scores'
//! exponentials and the values weighted with these; chunks are then put together in their order. So a query's result has the
//! same bits whatever is computed beside it, and wherever: few queries of a long context are divided among threads by
//! chunks, many are not.
//!
//! Source: Milakov and Gimelshein, <https://arxiv.org/abs/1805.02867>; Dao et al., <https://arxiv.org/abs/2205.14135>.

use std::ops::Range;

use super::kv::{self, Cache, Head, Numbers};
use super::math;
use super::vector::{Kernel, Vector};
use crate::backend::cpu::threads::Columns;
use crate::backend::{PAGE_LEN, Row, Step};
use crate::graph::AttentionSpec;

/// Positions that share a maximum.
const CHUNK: usize = 256;
const CHUNK_PAGES: usize = CHUNK / PAGE_LEN;
/// Queries in a block, unless those of one row are more.
const QUERIES: usize = 24;
/// Queries for which it is cheaper to convert keys and values where they are used than to write them down in f32 first.
const FEW_QUERIES: usize = 4;
/// Bytes of a line of a cache.
const LINE: usize = 64;
/// Blocks that are enough for any number of threads; fewer are divided by chunks.
const ENOUGH_BLOCKS: usize = 64;
/// Queries that are taken together at most, with 16 registers and with 32.
const TILE: [usize; 2] = [6, 12];

/// Queries that read the same keys and values: those of some rows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend::cpu) struct Block {
    /// Rows of the step.
    pub(in crate::backend::cpu) rows: Range<usize>,
    /// Chunks that any of them sees.
    pub(in crate::backend::cpu) chunks: Range<usize>,
}

/// The positions that a row may see.
fn visible(spec: &AttentionSpec, row: &Row) -> Range<usize> {
    let end = row.pos as usize + 1;
    spec.window.map_or(0, |window| end.saturating_sub(window))..end
}

/// Query heads that share keys and values.
fn group(spec: &AttentionSpec) -> usize {
    spec.n_head / spec.n_head_kv
}

/// Rows in a block at most.
fn block_rows(spec: &AttentionSpec) -> usize {
    (QUERIES / group(spec)).max(1)
}

/// The blocks of a step, for each head of keys and values the same.
pub(in crate::backend::cpu) fn blocks(spec: &AttentionSpec, step: &Step<'_>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut start = 0;
    for rows in step.rows.chunk_by(|a, b| a.seq == b.seq) {
        for rows in rows.chunks(block_rows(spec)) {
            let first = rows.iter().map(|row| visible(spec, row).start).min().unwrap_or(0);
            let end = rows.iter().map(|row| visible(spec, row).end).max().unwrap_or(0);
            let chunks = first / CHUNK..end.div_ceil(CHUNK);
            blocks.push(Block { rows: start..start + rows.len(), chunks });
            start += rows.len();
        }
    }
    blocks
}

/// Whether chunks are tasks of their own; a step's rows decide, so that bits depend on nothing else.
pub(in crate::backend::cpu) fn divides(spec: &AttentionSpec, blocks: &[Block]) -> bool {
    blocks.len() * spec.n_head_kv < ENOUGH_BLOCKS
}

/// f32s of scratch that a task needs.
pub(in crate::backend::cpu) fn scratch_len(spec: &AttentionSpec) -> usize {
    let queries = QUERIES.max(group(spec));
    let width = spec.head_dim.next_multiple_of(PAGE_LEN);
    queries * (CHUNK + width + spec.head_dim + 2 + width) + kv::panel_len(spec.head_dim)
}

/// f32s of what comes of a block and a chunk: for each query the largest score, the sum, and `[Dh]` weighted values.
pub(in crate::backend::cpu) fn partial_len(spec: &AttentionSpec) -> usize {
    QUERIES.max(group(spec)) * (spec.head_dim + 2)
}

/// What attention is computed of.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Inputs<'a> {
    pub(in crate::backend::cpu) spec: &'a AttentionSpec,
    pub(in crate::backend::cpu) step: &'a Step<'a>,
    pub(in crate::backend::cpu) cache: &'a Cache,
    /// `[T, H·Dh]`
    pub(in crate::backend::cpu) q: &'a [f32],
}

/// Computes `partial` of one chunk for the queries of a block.
pub(in crate::backend::cpu) struct Partial<'a> {
    pub(in crate::backend::cpu) inputs: Inputs<'a>,
    pub(in crate::backend::cpu) rows: Range<usize>,
    pub(in crate::backend::cpu) head_kv: usize,
    pub(in crate::backend::cpu) chunk: usize,
    pub(in crate::backend::cpu) partial: &'a mut [f32],
    pub(in crate::backend::cpu) scratch: &'a mut [f32],
}

impl Kernel for Partial<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { inputs, rows, head_kv, chunk, partial, scratch } = self;
        let n = rows.len() * group(inputs.spec);
        let mut queries = Queries::<V>::new(inputs, rows, head_kv, scratch);
        // SAFETY: the processor has the instruction set.
        unsafe {
            queries.pack();
            queries.chunk(chunk);
        }
        for (i, partial) in partial.chunks_exact_mut(inputs.spec.head_dim + 2).take(n).enumerate() {
            [partial[0], partial[1]] = [queries.max[i], queries.sum[i]];
            partial[2..].copy_from_slice(queries.weighted(i));
        }
    }
}

/// Computes all chunks for the queries of a block: `out` has their rows of `[T, H·Dh]`.
pub(in crate::backend::cpu) struct Whole<'a, 'o> {
    pub(in crate::backend::cpu) inputs: Inputs<'a>,
    pub(in crate::backend::cpu) block: &'a Block,
    pub(in crate::backend::cpu) head_kv: usize,
    pub(in crate::backend::cpu) sinks: Option<&'a [f32]>,
    pub(in crate::backend::cpu) out: &'a mut Columns<'o>,
    pub(in crate::backend::cpu) scratch: &'a mut [f32],
}

impl Kernel for Whole<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { inputs, block, head_kv, sinks, scratch, out } = self;
        let (group, dh) = (group(inputs.spec), inputs.spec.head_dim);
        let mut queries = Queries::<V>::new(inputs, block.rows.clone(), head_kv, scratch);
        let head = |i: usize| head_kv * group + i % group;
        let begin = |i: usize| State::begin(sinks.map(|sinks| sinks[head(i)]));
        let mut states: Vec<State> = (0..queries.n).map(begin).collect();
        let place = |i: usize| (block.rows.start + i / group, head(i) * dh..(head(i) + 1) * dh);
        for (t, columns) in (0..states.len()).map(place) {
            out.row(t)[columns].fill(0.0);
        }
        // SAFETY: the processor has the instruction set.
        unsafe {
            queries.pack();
            for chunk in block.chunks.clone() {
                queries.chunk(chunk);
                for (i, state) in states.iter_mut().enumerate() {
                    let (t, columns) = place(i);
                    state.add(queries.max[i], queries.sum[i], queries.weighted(i), &mut out.row(t)[columns]);
                }
            }
        }
        for (i, state) in states.iter().enumerate() {
            let (t, columns) = place(i);
            state.finish(&mut out.row(t)[columns]);
        }
    }
}

/// Puts the partials of chunks together, in their order: out `[Dh]` is one query's.
pub(in crate::backend::cpu) fn merge<'a>(
    sink: Option<f32>,
    partials: impl Iterator<Item = &'a [f32]>,
    out: &mut [f32],
) {
    let mut state = State::begin(sink);
    out.fill(0.0);
    for partial in partials {
        state.add(partial[0], partial[1], &partial[2..], out);
    }
    state.finish(out);
}

/// One query's partial in those of a block.
pub(in crate::backend::cpu) fn partial_of<'a>(spec: &AttentionSpec, partial: &'a [f32], query: usize) -> &'a [f32] {
    &partial[query * (spec.head_dim + 2)..][..spec.head_dim + 2]
}

/// How far a query's softmax is: the largest score, and the sum of exponentials of what is less.
#[derive(Debug, Clone, Copy)]
struct State {
    max: f32,
    sum: f32,
}

impl State {
    /// A sink takes part in the sum and weighs no value.
    fn begin(sink: Option<f32>) -> Self {
        sink.map_or(Self { max: f32::NEG_INFINITY, sum: 0.0 }, |sink| Self { max: sink, sum: 1.0 })
    }

    /// Takes in a chunk; `out` has the weighted values so far.
    #[inline(always)]
    fn add(&mut self, max: f32, sum: f32, weighted: &[f32], out: &mut [f32]) {
        if sum == 0.0 {
            return;
        }
        let new = self.max.max(max);
        let (before, now) = ((self.max - new).exp(), (max - new).exp());
        *self = Self { max: new, sum: self.sum * before + sum * now };
        for (out, w) in out.iter_mut().zip(weighted) {
            *out = *out * before + w * now;
        }
    }

    #[inline(always)]
    fn finish(&self, out: &mut [f32]) {
        let per_sum = 1.0 / self.sum;
        for out in out {
            *out *= per_sum;
        }
    }
}

/// The queries of a block, and what a chunk gives for them.
struct Queries<'a, V> {
    inputs: Inputs<'a>,
    rows: Range<usize>,
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
    vector: std::marker::PhantomData<V>,
}

impl<'a, V: Vector> Queries<'a, V> {
    #[inline(always)]
    fn new(inputs: Inputs<'a>, rows: Range<usize>, head_kv: usize, scratch: &'a mut [f32]) -> Self {
        let spec = inputs.spec;
        let n = rows.len() * group(spec);
        let width = spec.head_dim.next_multiple_of(PAGE_LEN);
        let (packed, rest) = scratch.split_at_mut(n * spec.head_dim);
        let (scores, rest) = rest.split_at_mut(n * CHUNK);
        let (weighted, rest) = rest.split_at_mut(n * width);
        let (max, rest) = rest.split_at_mut(n);
        let (sum, panel) = rest.split_at_mut(n);
        assert!(panel.len() >= kv::panel_len(spec.head_dim), "room for a page");
        let most = TILE[usize::from(V::REGISTERS > 16)];
        let tile = n.div_ceil(n.div_ceil(most));
        let vector = std::marker::PhantomData;
        Self { inputs, rows, head_kv, n, tile, packed, scores, weighted, width, max, sum, panel, vector }
    }

    /// The weighted values of query i.
    fn weighted(&self, i: usize) -> &[f32] {
        &self.weighted[i * self.width..][..self.inputs.spec.head_dim]
    }

    /// Puts the queries side by side.
    #[inline(always)]
    unsafe fn pack(&mut self) {
        let spec = self.inputs.spec;
        let (dh, group) = (spec.head_dim, group(spec));
        for (tile, packed) in self.packed.chunks_mut(self.tile * dh).enumerate() {
            let here = packed.len() / dh;
            for r in 0..here {
                let i = tile * self.tile + r;
                let (t, head) = (self.rows.start + i / group, self.head_kv * group + i % group);
                let q = &self.inputs.q[(t * spec.n_head + head) * dh..][..dh];
                for (d, q) in q.iter().enumerate() {
                    packed[d * here + r] = q * spec.scale;
                }
            }
        }
    }

    /// Computes a chunk for all queries.
    #[inline(always)]
    unsafe fn chunk(&mut self, chunk: usize) {
        let Inputs { spec, step, cache, .. } = self.inputs;
        let rows = &step.rows[self.rows.clone()];
        let pages = step.pages[rows[0].seq as usize];
        let first = rows.iter().map(|row| visible(spec, row).start).min().unwrap_or(0).max(chunk * CHUNK);
        let end = rows.iter().map(|row| visible(spec, row).end).max().unwrap_or(0).min((chunk + 1) * CHUNK);
        let of_chunk = first / PAGE_LEN..end.div_ceil(PAGE_LEN);
        let len = (of_chunk.end - chunk * CHUNK_PAGES) * PAGE_LEN;
        // SAFETY: pages that are visible were stored, and the slices have room for the queries.
        unsafe {
            // 1. Scores.
            for page in of_chunk.clone() {
                let head = cache.head(spec.layer, pages[page], self.head_kv);
                let next = (page + 1 < of_chunk.end).then(|| cache.head(spec.layer, pages[page + 1], self.head_kv));
                // These values, and the keys of the next page: the heads of a page are far from one another, and each is too
                // short for the processor to ask for the next by itself.
                let ahead = [head.values(), next.as_ref().map_or(head.values(), Head::keys)].map(<[u8]>::as_ptr);
                let strips = PAGE_LEN / (2 * V::LEN);
                // Where there are several tiles, keys and values are read as often, and memory is waited for once.
                let lines =
                    if self.n > self.tile { 0 } else { head.values().len().div_ceil(LINE * spec.head_dim * strips) };
                let keys = head.unpack_keys::<V>(self.panel.as_mut_ptr(), self.n > FEW_QUERIES);
                let to = self.scores.as_mut_ptr().add((page - chunk * CHUNK_PAGES) * PAGE_LEN);
                for strip in (0..PAGE_LEN).step_by(2 * V::LEN) {
                    let done = strip / (2 * V::LEN) * lines * LINE * spec.head_dim;
                    for i in (0..self.n).step_by(self.tile) {
                        let x = X { p: self.packed.as_ptr().add(i * spec.head_dim), step: 0, row_step: 1 };
                        let ahead = ahead.map(|p| p.wrapping_add(done));
                        let w = W { numbers: keys, at: strip, width: PAGE_LEN, depth: spec.head_dim, ahead, lines };
                        let to = Y { p: to.add(i * CHUNK + strip), width: CHUNK, n: 2 * V::LEN, add: false };
                        product::<V>(self.tile.min(self.n - i), w, x, to);
                    }
                }
            }
            // 2. Their exponentials.
            for i in 0..self.n {
                let visible = visible(spec, &rows[i / group(spec)]);
                let start = visible.start.max(first) - chunk * CHUNK;
                let end = visible.end.min(end).saturating_sub(chunk * CHUNK);
                let scores = &mut self.scores[i * CHUNK..][..len];
                [self.max[i], self.sum[i]] = softmax::<V>(scores, start..end.max(start), spec.softcap);
            }
            // 3. The values, weighted with these.
            self.weighted.fill(0.0);
            for page in of_chunk {
                let head = cache.head(spec.layer, pages[page], self.head_kv);
                let (values, width) = head.unpack_values::<V>(self.panel.as_mut_ptr(), self.n > FEW_QUERIES);
                let from = self.scores.as_ptr().add((page - chunk * CHUNK_PAGES) * PAGE_LEN);
                let depth = PAGE_LEN.min(end - page * PAGE_LEN);
                for strip in (0..spec.head_dim).step_by(2 * V::LEN) {
                    for i in (0..self.n).step_by(self.tile) {
                        let x = X { p: from.add(i * CHUNK), step: 1, row_step: CHUNK };
                        let w = W { numbers: values, at: strip, width, depth, ahead: [std::ptr::null(); 2], lines: 0 };
                        let n = (2 * V::LEN).min(self.width - strip);
                        let to = self.weighted.as_mut_ptr().add(i * self.width + strip);
                        let to = Y { p: to, width: self.width, n, add: true };
                        product::<V>(self.tile.min(self.n - i), w, x, to);
                    }
                }
            }
        }
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
    /// What is asked of memory meanwhile, so many lines of each for each row.
    ahead: [*const u8; 2],
    lines: usize,
}

/// Rows of x: number k of row r is at `k · step + r · row_step`; a step of 0 stands for as many as there are rows.
#[derive(Clone, Copy)]
struct X {
    p: *const f32,
    step: usize,
    row_step: usize,
}

/// Where the product goes, the first n columns: rows `width` apart.
#[derive(Clone, Copy)]
struct Y {
    p: *mut f32,
    width: usize,
    n: usize,
    add: bool,
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
            for line in 0..w.lines {
                let [now, next] = w.ahead.map(|p| p.wrapping_add((k * w.lines + line) * LINE));
                V::prefetch(now, false);
                V::prefetch(next, true);
            }
            for r in 0..R {
                let number = V::splat(*x.p.add(k * step + r * x.row_step));
                for v in 0..2 {
                    sums[r][v] = sums[r][v].mul_add(weights[v], number);
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

const _: () = assert!(CHUNK.is_multiple_of(PAGE_LEN) && PAGE_LEN == 32, "strips of two vectors of any width");
