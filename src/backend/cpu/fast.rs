//! Runs the ops that have SIMD kernels: matrix products of one input together, their activations rounded once, and with
//! them what is done with their numbers one by one: a gate's activation, the residual stream.

use std::ops::Range;

use super::experts;
use super::simd::activations::Activations;
use super::simd::attention::{self, Block, Inputs, Partial, Whole};
use super::simd::{self, Input, Isa, elementwise, gemm};
use super::threads::{Columns, Matrix, Parts, Pool};
use super::values::Values;
use super::{CpuProgram, Kv, OpWeights};
use crate::backend::Step;
use crate::graph::{Graph, Op, ValueId, WeightRef};

/// Numbers of activations that one thread rounds sooner than two: a microsecond or two.
const ROUND_ALONE: usize = 2 * 1024;
/// The shares of a thread, as parts of a whole, from the first to the last: long ones, through which memory streams, and
/// then short ones, so that threads finish together.
const SHARES: [usize; 4] = [2, 4, 8, 8];
/// Columns that are never divided: a few microseconds of work.
const COLUMNS: usize = 16;
/// Tasks for each thread in a product with several rows, at least.
const TASKS: usize = 4;

/// What the kernels keep between ops.
pub(super) struct Fast {
    pub(super) isa: Isa,
    rounded: Activations,
    pub(super) packed: gemm::Packed,
    pub(super) experts: experts::Scratch,
    /// What attention makes of chunks.
    partials: Vec<f32>,
    pub(super) threads: usize,
    /// For each group its tasks in a step of one row.
    tasks: Vec<Vec<Task>>,
}

/// Columns of the outputs of a group; of an op behind the products, and so of all of them, if there is one.
pub(super) type Task = Vec<(usize, Range<usize>)>;

impl Fast {
    pub(super) fn new(isa: Isa, graph: &Graph, groups: &[Vec<usize>], threads: usize) -> Self {
        let tasks = groups.iter().map(|group| one_row_tasks(&widths(graph, group), threads));
        Self {
            isa,
            rounded: Activations::default(),
            packed: gemm::Packed::default(),
            experts: experts::Scratch::default(),
            partials: Vec::new(),
            threads,
            tasks: tasks.collect(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rounded.bytes() + self.packed.bytes() + self.experts.bytes() + size_of_val(&self.partials[..])
    }
}

/// Scratch numbers that a task needs at most.
pub(super) fn scratch_len(graph: &Graph, isa: Isa) -> usize {
    let needs = graph.ops.iter().map(|op| match op {
        Op::MatMul { weight: WeightRef { shape: [_, k], .. }, .. }
        | Op::ExpertMatMul { weight: WeightRef { shape: [_, k], .. }, .. } => {
            simd::matvec_scratch_len(*k).max(gemm::scratch_len(isa, *k))
        }
        Op::Attention { spec, .. } => attention::scratch_len(spec),
        _ => 0,
    });
    needs.max().unwrap_or(0)
}

/// The ops of a graph in groups that run as one, in an order in which they can: products of one input together, and an
/// op behind them that takes their numbers one by one; products of one input with experts together.
pub(super) fn groups(graph: &Graph) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of_input = vec![None; graph.ops.len()];
    let mut experts_of_input = vec![None; graph.ops.len()];
    let mut group_of = vec![0; graph.ops.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        let joined = match op {
            Op::MatMul { x, .. } => *group_of_input[x.index()].get_or_insert(groups.len()),
            // What goes to experts is routed once.
            Op::ExpertMatMul { x, .. } => *experts_of_input[x.index()].get_or_insert(groups.len()),
            Op::Gated { gate: a, up: b, .. } | Op::Add { a, b } => {
                let last = group_of[a.index()].max(group_of[b.index()]);
                let joins = |&p: &usize| is_product(graph, p) && (p == a.index() || p == b.index());
                if groups[last].iter().all(joins) { last } else { groups.len() }
            }
            _ => groups.len(),
        };
        if joined == groups.len() {
            groups.push(Vec::new());
        }
        groups[joined].push(i);
        group_of[i] = joined;
    }
    groups
}

fn is_product(graph: &Graph, i: usize) -> bool {
    matches!(graph.ops[i], Op::MatMul { .. })
}

/// The widths of what a group's tasks are made of.
fn widths(graph: &Graph, group: &[usize]) -> Vec<usize> {
    let width = |&i: &usize| graph.values[i].width;
    match group.iter().find(|&&i| !is_product(graph, i)) {
        Some(last) => vec![width(last)],
        None => group.iter().map(width).collect(),
    }
}

/// What each task gets of a whole: for each of the threads a share of each size.
fn shares(threads: usize) -> impl Iterator<Item = usize> {
    SHARES.into_iter().flat_map(move |share| std::iter::repeat_n(threads * share, threads))
}

/// The tasks of a product with few rows, whose columns have `widths`, one matrix after the other.
pub(super) fn one_row_tasks(widths: &[usize], threads: usize) -> Vec<Task> {
    tasks(widths, shares(threads))
}

/// The tasks of a product with many rows.
pub(super) fn even_tasks_for(isa: Isa, widths: &[usize], threads: usize) -> Vec<Task> {
    let strip = gemm::strip(isa);
    let n = widths.iter().map(|width| width.div_ceil(strip)).sum::<usize>();
    // As many strips as leave each thread some tasks.
    even_tasks(widths, strip * (n / (threads * TASKS)).max(1))
}

/// Cuts the columns of matrices that have `widths`, one matrix after the other, into tasks of whole / `part` columns.
fn tasks(widths: &[usize], parts: impl Iterator<Item = usize>) -> Vec<Task> {
    let total: usize = widths.iter().sum();
    let mut tasks = Vec::new();
    let mut start = 0;
    for part in parts.chain(std::iter::once(1)) {
        let end = total.min(start + total.div_ceil(part).next_multiple_of(COLUMNS));
        let mut task = Vec::new();
        let mut first = 0;
        for (which, &width) in widths.iter().enumerate() {
            let columns = start.max(first) - first..end.clamp(first, first + width) - first;
            if columns.start < columns.end {
                task.push((which, columns));
            }
            first += width;
        }
        if !task.is_empty() {
            tasks.push(task);
        }
        start = end;
    }
    tasks
}

/// Cuts the columns of matrices that have `widths` into tasks of `n`, none of which has columns of two matrices.
fn even_tasks(widths: &[usize], n: usize) -> Vec<Task> {
    let of_one = |(which, &width): (usize, &usize)| {
        (0..width).step_by(n).map(move |start| vec![(which, start..width.min(start + n))])
    };
    widths.iter().enumerate().flat_map(of_one).collect()
}

impl CpuProgram {
    /// Runs group g, which is matrix products of one input and perhaps an op behind them, on all rows of the step.
    pub(super) fn run_products(&mut self, g: usize, group: &[usize]) {
        let Self { graph, weights, values, pool, fast, .. } = self;
        let Fast { isa, rounded, packed, threads, tasks: of_one_row, .. } =
            fast.as_mut().expect("groups are made for kernels");
        let isa = *isa;
        let Op::MatMul { x: input, weight, .. } = &graph.ops[group[0]] else { unreachable!("a group of products") };
        let k = weight.shape[1];
        let mut buffers: Vec<Vec<f32>> = group.iter().map(|&i| values.take(ValueId(i as u32))).collect();
        let x = values.get(*input);
        let n_products = group.iter().take_while(|&&i| is_product(graph, i)).count();
        let (products, behind) = group.split_at(n_products);
        let n_rows = x.len() / k;
        let by_panel = !simd::are_few(isa, n_rows, products.iter().map(|&i| weights[i].matrix().format));
        if by_panel {
            packed.fill(isa, pool, x, k);
        } else if products.iter().any(|&i| simd::wants_rounded(weights[i].matrix().format)) {
            round(isa, pool, x, k, rounded);
        }
        let mut outs: Vec<Matrix<'_>> =
            buffers.iter_mut().zip(group).map(|(buffer, &i)| out(values, graph, buffer, i)).collect();
        let parts = Parts::new(&mut outs);
        let input = Input { x, rounded };
        let of_many_rows;
        let tasks = if by_panel {
            of_many_rows = even_tasks_for(isa, &widths(graph, group), *threads);
            &of_many_rows
        } else {
            &of_one_row[g]
        };
        let ops: Vec<&OpWeights> = products.iter().map(|&i| &weights[i]).collect();
        let product = |which: usize, columns: &Range<usize>, scratch: &mut [f32]| {
            // SAFETY: a column is in one task only.
            let mut y = unsafe { parts.columns(which, columns.clone()) };
            let (matrix, bias) = (ops[which].matrix(), ops[which].vector.as_deref());
            if by_panel {
                gemm::multiply(isa, matrix, bias, packed, &mut y, scratch);
            } else {
                simd::matvec(isa, matrix, bias, input, &mut y, scratch);
            }
            y
        };
        pool.run(tasks.len(), &|i, scratch| {
            for (which, columns) in &tasks[i] {
                let Some(&last) = behind.first() else {
                    product(*which, columns, scratch);
                    continue;
                };
                let mut made: Vec<Columns<'_>> = (0..n_products).map(|p| product(p, columns, scratch)).collect();
                // SAFETY: as above.
                let mut y = unsafe { parts.columns(n_products, columns.clone()) };
                one_by_one(isa, graph, values, products, last, &mut made, &mut y);
            }
        });
        for (buffer, &i) in buffers.into_iter().zip(group) {
            values.put(ValueId(i as u32), buffer);
        }
    }
}

impl CpuProgram {
    /// Runs op i, attention, on all rows of the step.
    pub(super) fn run_attention(&mut self, i: usize, step: &Step<'_>) {
        let Self { graph, weights, values, kv, pool, fast, .. } = self;
        let (Some(Fast { isa, partials, .. }), Kv::Fast(cache)) = (fast, kv) else { unreachable!("made together") };
        let Op::Attention { q, spec, .. } = &graph.ops[i] else { unreachable!("attention") };
        let id = ValueId(i as u32);
        let mut buffer = values.take(id);
        let inputs = Inputs { spec, step, cache, q: values.get(*q) };
        let sinks = weights[i].vector.as_deref();
        let blocks = attention::blocks(spec, step);
        let (n_head_kv, dh) = (spec.n_head_kv, spec.head_dim);
        if !attention::divides(spec, &blocks) {
            let parts = Parts::new(&mut [out(values, graph, &mut buffer, i)]);
            pool.run(blocks.len() * n_head_kv, &|task, scratch| {
                let (block, head_kv) = (&blocks[task / n_head_kv], task % n_head_kv);
                // SAFETY: a row and a head are in one task only.
                let mut columns = unsafe { parts.columns(0, 0..spec.n_head * dh) };
                isa.run(Whole { inputs, block, head_kv, sinks, scratch, out: &mut columns });
            });
        } else {
            let tasks: Vec<(&Block, usize, usize)> = blocks
                .iter()
                .flat_map(|block| (0..n_head_kv).map(move |head_kv| (block, head_kv)))
                .flat_map(|(block, head_kv)| block.chunks.clone().map(move |chunk| (block, head_kv, chunk)))
                .collect();
            let len = attention::partial_len(spec);
            partials.resize(partials.len().max(tasks.len() * len), 0.0);
            pool.chunks(&mut partials[..tasks.len() * len], len, |task, partial, scratch| {
                let (Block { rows, .. }, head_kv, chunk) = tasks[task];
                isa.run(Partial { inputs, rows: rows.clone(), head_kv, chunk, partial, scratch });
            });
            let mut partials = &partials[..];
            let group = spec.n_head / n_head_kv;
            for (block, head_kv) in blocks.iter().flat_map(|block| (0..n_head_kv).map(move |head_kv| (block, head_kv)))
            {
                let (of_block, rest) = partials.split_at(block.chunks.len() * len);
                partials = rest;
                for query in 0..block.rows.len() * group {
                    let (t, head) = (block.rows.start + query / group, head_kv * group + query % group);
                    let each = of_block.chunks_exact(len).map(|partial| attention::partial_of(spec, partial, query));
                    let out = &mut buffer[(t * spec.n_head + head) * dh..][..dh];
                    attention::merge(sinks.map(|sinks| sinks[head]), each, out);
                }
            }
        }
        values.put(id, buffer);
    }
}

/// Runs op `last` on columns of the `products`, which are `made`, and of what was there before.
fn one_by_one(
    isa: Isa,
    graph: &Graph,
    values: &Values,
    products: &[usize],
    last: usize,
    made: &mut [Columns<'_>],
    y: &mut Columns<'_>,
) {
    let width = graph.values[last].width;
    let (columns, [a, b]) = (y.range(), inputs(&graph.ops[last]));
    let (mut a_made, mut b_made) = (None, None);
    for (made, &p) in made.iter_mut().zip(products) {
        let to = if p == a.index() { &mut a_made } else { &mut b_made };
        *to = Some(made);
    }
    for t in 0..y.n_rows() {
        let before = |id| &values.get(id)[t * width..][columns.clone()];
        let a = a_made.as_mut().map_or_else(|| before(a), |made| made.row(t));
        let b = b_made.as_mut().map_or_else(|| before(b), |made| made.row(t));
        match &graph.ops[last] {
            Op::Gated { act, .. } => elementwise::gated(isa, *act, a, b, y.row(t)),
            Op::Add { .. } => elementwise::add(isa, a, b, y.row(t)),
            op => unreachable!("{op:?} is in no group"),
        }
    }
}

/// The two inputs of an op that takes numbers one by one.
fn inputs(op: &Op) -> [ValueId; 2] {
    match op {
        Op::Gated { gate, up, .. } => [*gate, *up],
        Op::Add { a, b } => [*a, *b],
        op => unreachable!("{op:?} is in no group"),
    }
}

fn out<'a>(values: &Values, graph: &Graph, buffer: &'a mut [f32], i: usize) -> Matrix<'a> {
    let id = ValueId(i as u32);
    Matrix { data: &mut buffer[..values.len(id)], width: graph.value(id).width }
}

/// Rounds the rows x `[T, K]`.
fn round(isa: Isa, pool: &mut Pool, x: &[f32], k: usize, rounded: &mut Activations) {
    rounded.reserve(x.len() / k, k);
    let rows = x.chunks_exact(k).zip(rounded.rows_mut());
    if x.len() <= ROUND_ALONE {
        rows.for_each(|(x, row)| simd::round(isa, x, row));
    } else {
        pool.each(rows.collect(), |(x, row)| simd::round(isa, x, row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_each_column_once_and_shrink() {
        for widths in [vec![576], vec![576, 192, 192], vec![1], vec![1536, 1536], vec![262_144], vec![5, 3]] {
            for threads in [1, 2, 3, 64] {
                let tasks = tasks(&widths, shares(threads));
                let mut next: Vec<usize> = vec![0; widths.len()];
                for (which, columns) in tasks.iter().flatten() {
                    assert_eq!(columns.start, next[*which], "{widths:?} for {threads} threads");
                    next[*which] = columns.end;
                }
                assert_eq!(next, widths, "for {threads} threads");
                let len = |task: &Task| task.iter().map(|(_, columns)| columns.len()).sum::<usize>();
                assert!(tasks.iter().map(len).is_sorted_by(|a, b| a >= b), "{tasks:?}");
            }
        }
    }
}
