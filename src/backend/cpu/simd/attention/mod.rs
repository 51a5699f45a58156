//! Attention over the cached positions, several query heads and rows at a time: those that share keys and values.
//!
//! Positions are taken in chunks of [`CHUNK`]. Of each chunk come, for each query, the largest score, the sum of the scores'
//! exponentials and the values weighted with these; chunks are then put together in their order. So a query's result has the
//! same bits on any number of threads: few queries of a long context are divided among them by chunks, many are not. What
//! is multiplied beside it decides only between numbers as they lie in the cache, for few queries, in f32, and in tiles.
//!
//! Source: Milakov and Gimelshein, <https://arxiv.org/abs/1805.02867>; Dao et al., <https://arxiv.org/abs/2205.14135>.

mod vectors;

use std::ops::Range;

use self::vectors::Vectors;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::kv::Cache;
use super::math;
use super::vector::{Kernel, Vector};
use super::{FEW, Isa};
use crate::backend::cpu::threads::Columns;
use crate::backend::{KvFormat, PAGE_LEN, Row, Step};
use crate::graph::AttentionSpec;

/// Positions that share a maximum.
const CHUNK: usize = 256;
pub(super) const CHUNK_PAGES: usize = CHUNK / PAGE_LEN;
/// Queries in a block, unless those of one row are more.
const QUERIES: usize = 24;
/// The same where tiles multiply them, at most and at least: keys and values are split for all of them once.
const QUERIES_BY_TILES: [usize; 2] = [192, 32];
/// Blocks that are enough for a thread; fewer are divided by chunks.
const ENOUGH_BLOCKS: usize = 8;

/// Queries that read the same keys and values: those of some rows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend::cpu) struct Block {
    /// Rows of the step.
    pub(in crate::backend::cpu) rows: Range<usize>,
    /// Chunks that any of them sees.
    pub(in crate::backend::cpu) chunks: Range<usize>,
    /// Whether they are multiplied by tiles, where there are some: so are all queries of the sequence in this step, or none, so that bits
    /// do not depend on how these are divided into blocks.
    by_tiles: bool,
}

/// A block's queries of the heads that share the keys and values `head_kv`, and a chunk of these.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::cpu) struct Item<'a> {
    pub(in crate::backend::cpu) block: &'a Block,
    pub(in crate::backend::cpu) head_kv: usize,
    pub(in crate::backend::cpu) chunk: usize,
}

/// The positions that a row may see.
pub(super) fn visible(spec: &AttentionSpec, row: &Row) -> Range<usize> {
    let end = row.pos as usize + 1;
    spec.window.map_or(0, |window| end.saturating_sub(window))..end
}

/// The positions that any of the rows may see.
pub(super) fn visible_to_any(spec: &AttentionSpec, rows: &[Row]) -> Range<usize> {
    let first = rows.iter().map(|row| visible(spec, row).start).min().unwrap_or(0);
    let end = rows.iter().map(|row| visible(spec, row).end).max().unwrap_or(0);
    first..end
}

/// Query heads that share keys and values.
pub(super) fn group(spec: &AttentionSpec) -> usize {
    spec.n_head / spec.n_head_kv
}

/// Rows in a block at most.
fn block_rows(spec: &AttentionSpec, by_tiles: bool, n_rows: usize, threads: usize) -> usize {
    let rows = |queries: usize| (queries / group(spec)).max(1);
    if !by_tiles {
        return rows(QUERIES);
    }
    let [most, least] = QUERIES_BY_TILES.map(rows);
    (n_rows * spec.n_head_kv / (threads * ENOUGH_BLOCKS)).clamp(least, most)
}

/// The blocks of a step, for each head of keys and values the same.
pub(in crate::backend::cpu) fn blocks(isa: Isa, threads: usize, inputs: Inputs<'_>) -> Vec<Block> {
    let Inputs { spec, step, cache, .. } = inputs;
    let mut blocks = Vec::new();
    let mut start = 0;
    for rows in step.rows.chunk_by(|a, b| a.seq == b.seq) {
        // Keys in f32 are for those who want all bits.
        let by_tiles = isa == Isa::Amx && cache.format() != KvFormat::F32 && rows.len() > FEW;
        for rows in rows.chunks(block_rows(spec, by_tiles, step.rows.len(), threads)) {
            let visible = visible_to_any(spec, rows);
            let chunks = visible.start / CHUNK..visible.end.div_ceil(CHUNK);
            blocks.push(Block { rows: start..start + rows.len(), chunks, by_tiles });
            start += rows.len();
        }
    }
    blocks
}

/// Whether chunks are computed by themselves.
pub(in crate::backend::cpu) fn divides(spec: &AttentionSpec, blocks: &[Block], threads: usize) -> bool {
    blocks.len() * spec.n_head_kv < threads * ENOUGH_BLOCKS
}

/// All chunks of all blocks, those of a block together, in the order in which memory has them: the heads of a page are
/// neighbours.
pub(in crate::backend::cpu) fn items<'a>(spec: &AttentionSpec, blocks: &'a [Block]) -> Vec<Item<'a>> {
    let of_chunk = |block, chunk| (0..spec.n_head_kv).map(move |head_kv| Item { block, head_kv, chunk });
    blocks.iter().flat_map(|block| block.chunks.clone().flat_map(move |chunk| of_chunk(block, chunk))).collect()
}

/// f32s of scratch that a task needs.
pub(in crate::backend::cpu) fn scratch_len(isa: Isa, spec: &AttentionSpec) -> usize {
    let by_vectors = vectors::scratch_len(spec.head_dim, QUERIES.max(group(spec)));
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => by_vectors.max(amx::attention::scratch_len(spec.head_dim, QUERIES_BY_TILES[0].max(group(spec)))),
        _ => by_vectors,
    }
}

/// f32s of what comes of an item: for each query the largest score, the sum, and `[Dh]` weighted values.
pub(in crate::backend::cpu) fn partial_len(inputs: Inputs<'_>, blocks: &[Block]) -> usize {
    let n = blocks.iter().map(|block| inputs.n_queries(block)).max().unwrap_or(0);
    n * (inputs.spec.head_dim + 2)
}

/// What attention is computed of.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Inputs<'a> {
    pub(in crate::backend::cpu) spec: &'a AttentionSpec,
    pub(in crate::backend::cpu) step: &'a Step<'a>,
    pub(in crate::backend::cpu) cache: &'a Cache,
    /// `[T, H·Dh]`
    pub(in crate::backend::cpu) q: &'a [f32],
    /// `[H]`
    pub(in crate::backend::cpu) sinks: Option<&'a [f32]>,
}

impl<'a> Inputs<'a> {
    /// The row and the head of query i of a block.
    #[inline(always)]
    pub(super) fn query(&self, block: &Block, head_kv: usize, i: usize) -> (usize, usize) {
        let group = group(self.spec);
        (block.rows.start + i / group, head_kv * group + i % group)
    }

    /// Queries of a block.
    pub(super) fn n_queries(&self, block: &Block) -> usize {
        block.rows.len() * group(self.spec)
    }

    /// The pages of a chunk that a block sees, and where in the positions of all that is.
    pub(super) fn pages_of(&self, item: Item<'_>) -> PagesOf<'a> {
        let rows = &self.step.rows[item.block.rows.clone()];
        let visible = visible_to_any(self.spec, rows);
        let chunk = item.chunk * CHUNK..(item.chunk + 1) * CHUNK;
        let positions = visible.start.max(chunk.start)..visible.end.min(chunk.end);
        let pages = positions.start / PAGE_LEN..positions.end.div_ceil(PAGE_LEN);
        PagesOf { pages: self.step.pages[rows[0].seq as usize], range: pages, positions }
    }
}

/// Pages of a sequence.
pub(super) struct PagesOf<'a> {
    /// All of the sequence's.
    pub(super) pages: &'a [u32],
    /// Those that are meant.
    pub(super) range: Range<usize>,
    /// The positions in these that are seen.
    pub(super) positions: Range<usize>,
}

/// What computes chunks.
pub(super) trait Way {
    /// Computes the `chunks` of a block's queries, in their order, and perhaps asks memory for what the `next` item begins with.
    ///
    /// # Safety
    /// The processor has what it is for, and scratch has [`scratch_len`] numbers.
    unsafe fn run(
        inputs: Inputs<'_>,
        of: (&Block, usize),
        chunks: Range<usize>,
        next: Option<Item<'_>>,
        scratch: &mut [f32],
        results: &mut impl Results,
    );
}

/// Where what comes of chunks goes.
pub(super) trait Results {
    /// Takes query i's largest score, the sum of its exponentials, and the values `[Dh]` weighted with these.
    ///
    /// # Safety
    /// The processor has the instruction set of `V`.
    unsafe fn take<V: Vector>(&mut self, i: usize, max: f32, sum: f32, weighted: &[f32]);
}

/// Computes the partials of items, one after the other.
pub(in crate::backend::cpu) struct Partials<'a> {
    pub(in crate::backend::cpu) inputs: Inputs<'a>,
    pub(in crate::backend::cpu) items: &'a [Item<'a>],
    pub(in crate::backend::cpu) partials: &'a mut [f32],
    pub(in crate::backend::cpu) scratch: &'a mut [f32],
}

impl Partials<'_> {
    /// # Safety
    /// The processor has what the way is for.
    #[inline(always)]
    pub(super) unsafe fn by<W: Way>(self) {
        let Self { inputs, items, partials, scratch } = self;
        let len = partials.len() / items.len();
        for (i, (item, partial)) in items.iter().zip(partials.chunks_exact_mut(len)).enumerate() {
            let (of, chunks) = ((item.block, item.head_kv), item.chunk..item.chunk + 1);
            let mut results = Partial { numbers: partial, head_dim: inputs.spec.head_dim };
            // SAFETY: as the caller promises.
            unsafe { W::run(inputs, of, chunks, items.get(i + 1).copied(), scratch, &mut results) };
        }
    }
}

impl Kernel for Partials<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the processor has the instruction set.
        unsafe { self.by::<Vectors<V>>() };
    }
}

/// What comes of one item.
struct Partial<'a> {
    numbers: &'a mut [f32],
    head_dim: usize,
}

impl Results for Partial<'_> {
    #[inline(always)]
    unsafe fn take<V: Vector>(&mut self, i: usize, max: f32, sum: f32, weighted: &[f32]) {
        let partial = &mut self.numbers[i * (self.head_dim + 2)..][..self.head_dim + 2];
        [partial[0], partial[1]] = [max, sum];
        partial[2..].copy_from_slice(weighted);
    }
}

/// Computes all chunks for the queries of a block: `out` has their rows of `[T, H·Dh]`.
pub(in crate::backend::cpu) struct Whole<'a, 'o> {
    pub(in crate::backend::cpu) inputs: Inputs<'a>,
    pub(in crate::backend::cpu) block: &'a Block,
    pub(in crate::backend::cpu) head_kv: usize,
    pub(in crate::backend::cpu) out: &'a mut Columns<'o>,
    pub(in crate::backend::cpu) scratch: &'a mut [f32],
}

impl Whole<'_, '_> {
    /// # Safety
    /// The processor has what the way is for, and the instruction set of `V`.
    #[inline(always)]
    pub(super) unsafe fn by<V: Vector, W: Way>(self) {
        let Self { inputs, block, head_kv, scratch, out } = self;
        let mut merged = Merged::new(inputs, block, head_kv, out);
        // SAFETY: as the caller promises.
        unsafe {
            W::run(inputs, (block, head_kv), block.chunks.clone(), None, scratch, &mut merged);
            merged.finish::<V>();
        }
    }
}

impl Kernel for Whole<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the processor has the instruction set.
        unsafe { self.by::<V, Vectors<V>>() };
    }
}

/// Computes partials of items in the way that is best for them.
pub(in crate::backend::cpu) fn partials(isa: Isa, partials: Partials<'_>) {
    let Partials { inputs, items, partials: mut numbers, scratch } = partials;
    let len = numbers.len() / items.len();
    for items in items.chunk_by(|a, b| a.block.by_tiles == b.block.by_tiles) {
        let (partials, rest) = numbers.split_at_mut(items.len() * len);
        numbers = rest;
        let partials = Partials { inputs, items, partials, scratch };
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if items[0].block.by_tiles => amx::attention::partials(partials),
            _ => isa.run(partials),
        }
    }
}

/// Computes a block in the way that is best for it.
pub(in crate::backend::cpu) fn whole(isa: Isa, whole: Whole<'_, '_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx if whole.block.by_tiles => amx::attention::whole(whole),
        _ => isa.run(whole),
    }
}

/// Puts the partials of [`items`] together: those of the chunks of a block in their order. Out is `[T, H·Dh]`.
pub(in crate::backend::cpu) struct Merge<'a, 'o> {
    pub(in crate::backend::cpu) inputs: Inputs<'a>,
    pub(in crate::backend::cpu) blocks: &'a [Block],
    /// As many for each item.
    pub(in crate::backend::cpu) partials: &'a [f32],
    pub(in crate::backend::cpu) out: &'a mut Columns<'o>,
}

impl Kernel for Merge<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { inputs, blocks, partials, out } = self;
        let (spec, len) = (inputs.spec, partial_len(inputs, blocks));
        let mut partials = partials.chunks_exact(len * spec.n_head_kv);
        for block in blocks {
            let of_block = partials.clone().take(block.chunks.len());
            for head_kv in 0..spec.n_head_kv {
                let mut merged = Merged::new(inputs, block, head_kv, out);
                for of_chunk in of_block.clone() {
                    let queries = of_chunk[head_kv * len..][..len].chunks_exact(spec.head_dim + 2);
                    for (i, partial) in queries.take(inputs.n_queries(block)).enumerate() {
                        // SAFETY: the processor has the instruction set.
                        unsafe { merged.take::<V>(i, partial[0], partial[1], &partial[2..]) };
                    }
                }
                // SAFETY: as above.
                unsafe { merged.finish::<V>() };
            }
            partials.by_ref().take(block.chunks.len()).for_each(drop);
        }
    }
}

/// What the chunks so far give for the queries of a block, in its rows of the output.
struct Merged<'a, 'o> {
    inputs: Inputs<'a>,
    block: &'a Block,
    head_kv: usize,
    states: Vec<State>,
    out: &'a mut Columns<'o>,
}

/// How far a query's softmax is: the largest score, and the sum of exponentials of what is less.
#[derive(Debug, Clone, Copy)]
struct State {
    max: f32,
    sum: f32,
    /// Whether the output has weighted values yet.
    any: bool,
}

impl<'a, 'o> Merged<'a, 'o> {
    #[inline(always)]
    fn new(inputs: Inputs<'a>, block: &'a Block, head_kv: usize, out: &'a mut Columns<'o>) -> Self {
        // A sink takes part in the sum and weighs no value.
        let begin = |i: usize| match inputs.sinks {
            Some(sinks) => State { max: sinks[inputs.query(block, head_kv, i).1], sum: 1.0, any: false },
            None => State { max: f32::NEG_INFINITY, sum: 0.0, any: false },
        };
        Self { inputs, block, head_kv, states: (0..inputs.n_queries(block)).map(begin).collect(), out }
    }

    /// Where the weighted values of query i are.
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        let ((t, head), dh) = (self.inputs.query(self.block, self.head_kv, i), self.inputs.spec.head_dim);
        &mut self.out.row(t)[head * dh..][..dh]
    }

    /// Divides by the sums.
    #[inline(always)]
    unsafe fn finish<V: Vector>(mut self) {
        for i in 0..self.states.len() {
            let State { sum, any, .. } = self.states[i];
            assert!(any, "a row sees itself");
            for out in self.row(i).chunks_mut(V::LEN) {
                let (n, to) = (out.len(), out.as_mut_ptr());
                // SAFETY: n numbers are there.
                unsafe { V::load_first(to, n).mul(V::splat(1.0 / sum)).store_first(to, n) };
            }
        }
    }
}

impl Results for Merged<'_, '_> {
    #[inline(always)]
    unsafe fn take<V: Vector>(&mut self, i: usize, max: f32, sum: f32, weighted: &[f32]) {
        if sum == 0.0 {
            return;
        }
        let State { max: old, sum: sum_before, any } = self.states[i];
        let new = old.max(max);
        let row = self.row(i);
        // SAFETY: as the caller promises; both rows have as many numbers.
        unsafe {
            let (before, now) = (math::exp(V::splat(old - new)), math::exp(V::splat(max - new)));
            let mut sum_now = 0.0;
            before.mul(V::splat(sum_before)).mul_add(now, V::splat(sum)).store_first(&raw mut sum_now, 1);
            for (out, w) in row.chunks_mut(V::LEN).zip(weighted.chunks(V::LEN)) {
                let (n, to) = (out.len(), out.as_mut_ptr());
                let so_far = if any { before.mul(V::load_first(to, n)) } else { V::splat(0.0) };
                so_far.mul_add(now, V::load_first(w.as_ptr(), n)).store_first(to, n);
            }
            self.states[i] = State { max: new, sum: sum_now, any: true };
        }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(PAGE_LEN) && PAGE_LEN == 32, "strips of two vectors of any width");
