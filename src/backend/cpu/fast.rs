//! Runs the ops that have SIMD kernels: matrix products of one input together, their activations rounded once, and with
//! them what is done with their numbers one by one: a gate's activation, the residual stream.

use std::ops::Range;

use super::ahead::{self, Ahead};
use super::simd::activations::Activations;
use super::simd::attention::Inputs;
use super::simd::{self, Input, Isa, elementwise, gemm};
use super::threads::{Columns, Matrix, Parts, Pool};
use super::values::Values;
use super::{CpuProgram, Kv, OpWeights};
use super::{attention, experts};
use crate::backend::Step;
use crate::graph::{Graph, Op, ValueId};

/// Numbers of activations that one thread rounds or copies sooner than two: a microsecond or two.
const ROUND_ALONE: usize = 2 * 1024;
/// The part of its columns that a thread takes last: in a task of its own, so that who comes first helps. The rest is one task, since
/// each begins with a microsecond in which memory gives little; and each of many rows has all of x pass through once more.
const LAST: usize = 8;
/// Columns that are never divided: a few microseconds of work.
const COLUMNS: usize = 16;

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
        let tasks = groups.iter().map(|group| tasks_of_few(&widths(graph, group), threads));
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

    /// What each thread reads first in each group of products, with few rows.
    pub(super) fn ahead(&self, graph: &Graph, groups: &[Vec<usize>], weights: &[OpWeights]) -> Ahead {
        let first = |(group, tasks): (&Vec<usize>, &Vec<Task>)| {
            let (products, behind) = split(graph, group);
            // The beginnings of what is read side by side.
            let rows = |i: usize, columns: &Range<usize>| -> [Range<usize>; simd::STREAMS] {
                let matrix = weights[i].matrix();
                let (start, n) = (matrix.bytes.as_ptr().addr(), columns.len() / simd::STREAMS);
                let len = (n * matrix.row_bytes()).min(ahead::MOST / simd::STREAMS);
                std::array::from_fn(|i| {
                    let first = start + (columns.start + i * n) * matrix.row_bytes();
                    first..first + len
                })
            };
            let of_task = |task: &Task| -> Vec<Range<usize>> {
                let of = |(which, columns): &(usize, Range<usize>)| match behind {
                    None => rows(products[*which], columns).to_vec(),
                    Some(_) => products.iter().flat_map(|&i| rows(i, columns)).collect(),
                };
                task.iter().flat_map(of).collect()
            };
            match graph.ops[group[0]] {
                Op::MatMul { .. } => tasks.iter().take(self.threads).map(of_task).collect(),
                _ => Vec::new(),
            }
        };
        Ahead::new(groups.iter().zip(&self.tasks).map(first).collect())
    }

    pub(super) fn bytes(&self) -> usize {
        self.rounded.bytes() + self.packed.bytes() + self.experts.bytes() + size_of_val(&self.partials[..])
    }
}

/// Scratch numbers that a task needs at most.
pub(super) fn scratch_len(graph: &Graph, isa: Isa) -> usize {
    let needs = graph.ops.iter().map(|op| match op {
        Op::MatMul { .. } | Op::ExpertMatMul { .. } => {
            let k = op.weights()[0].shape[1];
            simd::matvec_scratch_len(k).max(gemm::scratch_len(isa, k))
        }
        Op::Attention { spec, .. } => simd::attention::scratch_len(isa, spec),
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
                let joins = |&p: &usize| is_product(&graph.ops[p]) && (p == a.index() || p == b.index());
                if groups[last].iter().all(joins) {
                    // What is behind products is the last of its group.
                    let input = graph.ops[groups[last][0]].inputs()[0].index();
                    (group_of_input[input], experts_of_input[input]) = (None, None);
                    last
                } else {
                    groups.len()
                }
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

fn is_product(op: &Op) -> bool {
    matches!(op, Op::MatMul { .. } | Op::ExpertMatMul { .. })
}

/// The widths of what a group's tasks are made of.
fn widths(graph: &Graph, group: &[usize]) -> Vec<usize> {
    let (products, behind) = split(graph, group);
    behind.map_or(products, std::slice::from_ref).iter().map(|&i| graph.values[i].width).collect()
}

/// The products of a group, and the op behind them.
pub(super) fn split<'a>(graph: &Graph, group: &'a [usize]) -> (&'a [usize], Option<&'a usize>) {
    let n = group.iter().take_while(|&&i| is_product(&graph.ops[i])).count();
    (&group[..n], group.get(n))
}

/// The tasks of products with few rows, whose columns have `widths`.
pub(super) fn tasks_of_few(widths: &[usize], threads: usize) -> Vec<Task> {
    tasks(widths, COLUMNS, threads)
}

/// The tasks of products with many rows.
pub(super) fn tasks_of_many(isa: Isa, widths: &[usize], threads: usize) -> Vec<Task> {
    tasks(widths, gemm::strip(isa), threads)
}

/// Cuts the columns of matrices that have `widths`, one matrix after the other, into tasks of whole units, the last one of a matrix being
/// what is left: a long task for each thread, then a short one for each.
fn tasks(widths: &[usize], unit: usize, threads: usize) -> Vec<Task> {
    let n: usize = widths.iter().map(|width| width.div_ceil(unit)).sum();
    // To the nearest number.
    let short = ((n + threads * LAST / 2) / (threads * LAST)).max(1);
    let long = n.saturating_sub(threads * short).div_ceil(threads);
    let mut lens = std::iter::repeat_n(long, threads).filter(|&long| long > 0).chain(std::iter::repeat(short));
    let mut tasks: Vec<Task> = Vec::new();
    let mut left = 0;
    for (which, &width) in widths.iter().enumerate() {
        let mut start = 0;
        while start < width {
            if left == 0 {
                tasks.push(Task::new());
                left = lens.next().unwrap_or(short);
            }
            let columns = start..width.min(start + left * unit);
            left -= columns.len().div_ceil(unit);
            start = columns.end;
            tasks.last_mut().expect("it was begun").push((which, columns));
        }
    }
    tasks
}

impl CpuProgram {
    /// Runs group g, which is matrix products of one input and perhaps an op behind them, on all rows of the step.
    pub(super) fn run_products(&mut self, g: usize, group: &[usize]) {
        let Self { graph, weights, values, pool, fast, .. } = self;
        let Fast { isa, rounded, packed, threads, tasks: of_one_row, .. } =
            fast.as_mut().expect("groups are made for kernels");
        let isa = *isa;
        let Op::MatMul { x: input, weight, .. } = &graph.ops[group[0]] else { unreachable!("a group of products") };
        if values.get(*input).is_empty() {
            // No outputs were asked for.
            return;
        }
        let k = weight.shape[1];
        let mut buffers: Vec<Vec<f32>> = group.iter().map(|&i| values.take(ValueId(i as u32))).collect();
        let x = values.get(*input);
        let (products, behind) = split(graph, group);
        let n_rows = x.len() / k;
        let by_panel = !simd::are_few(isa, n_rows, products.iter().map(|&i| weights[i].matrix().format));
        if by_panel {
            packed.fill(isa, pool, x, k);
        } else if products.iter().any(|&i| simd::wants_rounded(weights[i].matrix().format)) {
            rounded.reserve(n_rows, k);
            rounded.leave_out(simd::left_out(isa, products.iter().map(|&i| weights[i].matrix().format)));
            let rows = x.chunks_exact(k).zip(rounded.rows_mut()).collect();
            each(pool, x.len(), rows, |(x, row)| simd::round(isa, x, row));
        }
        let mut outs: Vec<Matrix<'_>> =
            buffers.iter_mut().zip(group).map(|(buffer, &i)| out(values, graph, buffer, i)).collect();
        let parts = Parts::new(&mut outs);
        let input = Input { x, rounded };
        let of_many_rows;
        let tasks = if by_panel {
            of_many_rows = tasks_of_many(isa, &widths(graph, group), *threads);
            &of_many_rows
        } else {
            &of_one_row[g]
        };
        let ops: Vec<&OpWeights> = products.iter().map(|&i| &weights[i]).collect();
        let group_of = Group { isa, graph, values, products, behind };
        let next = (!by_panel).then_some(g);
        pool.run_group(next, tasks.len(), &|i, scratch| {
            for (which, columns) in &tasks[i] {
                // SAFETY: a column is in one task only.
                let part = |i| unsafe { parts.columns(i, columns.clone()) };
                group_of.make(*which, &part, &mut |p, y| {
                    let (matrix, bias) = (ops[p].matrix(), ops[p].vector.as_deref());
                    if by_panel {
                        gemm::multiply(isa, matrix, bias, packed, y, scratch);
                    } else {
                        simd::matvec(isa, matrix, bias, input, y, scratch);
                    }
                });
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
        let (Some(Fast { isa, partials, threads, .. }), Kv::Fast(cache)) = (fast, kv) else {
            unreachable!("made together")
        };
        let Op::Attention { q, spec, .. } = &graph.ops[i] else { unreachable!("attention") };
        let id = ValueId(i as u32);
        let mut buffer = values.take(id);
        let inputs = Inputs { spec, step, cache, q: values.get(*q), sinks: weights[i].vector.as_deref() };
        attention::run(*isa, pool, *threads, partials, inputs, out(values, graph, &mut buffer, i));
        values.put(id, buffer);
    }
}

/// Products that run together, and perhaps an op behind them that takes their numbers one by one.
pub(super) struct Group<'a> {
    pub(super) isa: Isa,
    pub(super) graph: &'a Graph,
    pub(super) values: &'a Values,
    pub(super) products: &'a [usize],
    pub(super) behind: Option<&'a usize>,
}

impl Group<'_> {
    /// Makes some columns of product `which`; or, where there is an op behind, of it and of all products. `part(i)` are those of the
    /// group's op i, and `product(i, part)` writes them.
    pub(super) fn make<'p>(
        &self,
        which: usize,
        part: &dyn Fn(usize) -> Columns<'p>,
        product: &mut dyn FnMut(usize, &mut Columns<'p>),
    ) {
        let mut make = |i| {
            let mut y = part(i);
            product(i, &mut y);
            y
        };
        match self.behind {
            None => drop(make(which)),
            Some(&last) => {
                let mut made: Vec<Columns<'_>> = (0..self.products.len()).map(make).collect();
                let mut y = part(made.len());
                self.one_by_one(&self.graph.ops[last], &mut made, &mut y);
            }
        }
    }

    /// Runs an op on columns of the products, which are `made`, and of what was there before.
    fn one_by_one(&self, op: &Op, made: &mut [Columns<'_>], y: &mut Columns<'_>) {
        let [a, b] = inputs(op);
        let (mut a_made, mut b_made) = (None, None);
        for (made, &p) in made.iter_mut().zip(self.products) {
            let to = if p == a.index() { &mut a_made } else { &mut b_made };
            *to = Some(made);
        }
        for t in 0..y.n_rows() {
            let before = |id| y.row_of(self.values.get(id), t);
            let a = a_made.as_mut().map_or_else(|| before(a), |made| made.row(t));
            let b = b_made.as_mut().map_or_else(|| before(b), |made| made.row(t));
            match op {
                Op::Gated { act, .. } => elementwise::gated(self.isa, *act, a, b, y.row(t)),
                Op::Add { .. } => elementwise::add(self.isa, a, b, y.row(t)),
                op => unreachable!("{op:?} is in no group"),
            }
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

/// Calls `task` for each item, which have `len` numbers in all: by one thread if these are few.
pub(super) fn each<T: Send>(pool: &mut Pool, len: usize, items: Vec<T>, task: impl Fn(T) + Sync) {
    if len <= ROUND_ALONE { items.into_iter().for_each(task) } else { pool.each(items, task) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder};

    #[test]
    fn groups_end_with_what_is_behind_their_products() {
        let g = GraphBuilder::new("test", &|name: &str| match name {
            "x.weight" | "output.weight" => Some(vec![16, 8]),
            name if name.ends_with(".weight") => Some(vec![8, 8]),
            _ => None,
        });
        let x = g.embed("x", 16, 8, 1.0);
        let b = g.block(0);
        let gated = b.gated(b.matmul("gate", x, 8), b.matmul("up", x, 8), Activation::Silu);
        let later = [b.matmul("a", x, 8), b.matmul("b", x, 8)];
        let sum = b.add(gated, b.add(later[0], later[1]));
        let logits = g.matmul("output", g.output_rows(sum), 16);
        let graph = g.finish(logits).expect("a graph");
        assert_eq!(groups(&graph)[1..3], [vec![1, 2, 3], vec![4, 5, 6]]);
    }

    #[test]
    fn tasks_cover_each_column_once_and_shrink() {
        for widths in [vec![576], vec![576, 192, 192], vec![1], vec![1536, 1536], vec![262_144], vec![5, 3]] {
            for (threads, unit) in [1, 2, 3, 64].into_iter().flat_map(|threads| [(threads, COLUMNS), (threads, 48)]) {
                let tasks = tasks(&widths, unit, threads);
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
