//! Mixtures of experts with SIMD kernels: each expert's matrix is read once a step, if any row uses it.
//!
//! A *slot* is one of the U uses that a row has for an expert. The slots of a step are sorted by expert; an expert with a few is
//! multiplied as a few rows are, all such experts in one job; one with many goes by way of a panel, as a prompt does. Results
//! are written to where they belong, so that nobody sees the order.

use std::ops::Range;

use super::fast::{even_tasks_for, one_row_tasks};
use super::simd::activations::Activations;
use super::simd::{self, Input, Isa, gemm};
use super::threads::{Matrix, Parts, Pool};
use super::values::Values;
use super::{CpuProgram, OpWeights};
use crate::graph::{Op, ValueId};

/// What products of experts keep between ops.
#[derive(Default)]
pub(super) struct Scratch {
    slots: Slots,
    /// The rows of x in the order of the slots.
    x: Vec<f32>,
    /// For each expert with few slots its rows, rounded.
    rounded: Vec<Activations>,
}

impl Scratch {
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.x[..]) + self.rounded.iter().map(Activations::bytes).sum::<usize>()
    }
}

/// The slots of a step, expert by expert.
#[derive(Default)]
struct Slots {
    order: Vec<u32>,
    /// Experts that are used, each with its slots as a range of `order`.
    experts: Vec<(usize, Range<usize>)>,
}

impl Slots {
    /// Sorts the slots of `route` `[T, 2·U]`.
    fn sort(&mut self, route: &[f32], n_used: usize) {
        let expert = |slot: u32| {
            let slot = slot as usize;
            route[slot / n_used * 2 * n_used + slot % n_used] as usize
        };
        self.order.clear();
        self.order.extend(0..(route.len() / 2) as u32);
        self.order.sort_by_key(|&slot| expert(slot));
        self.experts.clear();
        let mut start = 0;
        for slots in self.order.chunk_by(|&a, &b| expert(a) == expert(b)) {
            self.experts.push((expert(slots[0]), start..start + slots.len()));
            start += slots.len();
        }
    }
}

/// The sizes of an [`Op::ExpertMatMul`].
#[derive(Clone, Copy)]
struct Sizes {
    x: ValueId,
    route: ValueId,
    k: usize,
    n_expert: usize,
    n_used: usize,
}

fn sizes(op: &Op) -> Sizes {
    let Op::ExpertMatMul { x, route, weight, n_expert, n_used, .. } = op else {
        unreachable!("{op:?} is no product with experts");
    };
    Sizes { x: *x, route: *route, k: weight.shape[1], n_expert: *n_expert, n_used: *n_used }
}

impl CpuProgram {
    /// Runs a group: products of one input with experts that one route chose, on all rows of the step.
    pub(super) fn run_experts(&mut self, group: &[usize]) {
        let Self { graph, weights, values, pool, fast, .. } = self;
        let fast = fast.as_mut().expect("groups are made for kernels");
        let (isa, threads) = (fast.isa, fast.threads);
        let Scratch { slots, x, rounded } = &mut fast.experts;
        let sizes = sizes(&graph.ops[group[0]]);
        slots.sort(values.get(sizes.route), sizes.n_used);
        gather(pool, values, sizes, &slots.order, x);

        let ops: Vec<&OpWeights> = group.iter().map(|&i| &weights[i]).collect();
        let widths: Vec<usize> = ops.iter().map(|op| op.matrix().n_rows() / sizes.n_expert).collect();
        let mut buffers: Vec<Vec<f32>> = group.iter().map(|&i| values.take(ValueId(i as u32))).collect();
        let n = slots.order.len();
        let outs = buffers.iter_mut().zip(&widths);
        let mut outs: Vec<Matrix<'_>> =
            outs.map(|(buffer, &width)| Matrix { data: &mut buffer[..n * width], width }).collect();
        let products = Products { isa, ops: &ops, widths: &widths, k: sizes.k, slots, x, parts: Parts::new(&mut outs) };
        let are_few = |n_rows| simd::are_few(isa, n_rows, ops.iter().map(|op| op.matrix().format));
        let (few, many): (Vec<_>, Vec<_>) = slots.experts.iter().partition(|(_, slots)| are_few(slots.len()));
        products.few(pool, threads, &few, rounded);
        for (expert, slots) in many {
            products.many(pool, threads, *expert, slots, &mut fast.packed);
        }
        for (buffer, &i) in buffers.into_iter().zip(group) {
            values.put(ValueId(i as u32), buffer);
        }
    }
}

/// Copies the row of x of each slot, in the order of the slots.
fn gather(pool: &mut Pool, values: &Values, sizes: Sizes, order: &[u32], to: &mut Vec<f32>) {
    let Sizes { k, n_used, .. } = sizes;
    let from = values.get(sizes.x);
    // One row of x for each slot, or one for all of a step's row.
    let slots_each = order.len() * k / from.len();
    debug_assert!(slots_each == 1 || slots_each == n_used);
    let len = order.len() * k;
    to.resize(to.len().max(len), 0.0);
    pool.chunks(&mut to[..len], k, |i, to, _| to.copy_from_slice(&from[order[i] as usize / slots_each * k..][..k]));
}

/// What the products of a group have in common.
struct Products<'a> {
    isa: Isa,
    ops: &'a [&'a OpWeights],
    /// M of each op.
    widths: &'a [usize],
    k: usize,
    slots: &'a Slots,
    x: &'a [f32],
    parts: Parts<'a>,
}

impl Products<'_> {
    /// Multiplies experts with few slots each, all in one job.
    fn few(&self, pool: &mut Pool, threads: usize, experts: &[&(usize, Range<usize>)], rounded: &mut Vec<Activations>) {
        let k = self.k;
        rounded.resize_with(rounded.len().max(experts.len()), Activations::default);
        let x = |slots: &Range<usize>| &self.x[slots.start * k..slots.end * k];
        if self.ops.iter().any(|op| simd::wants_rounded(op.matrix().format)) {
            let each = experts.iter().zip(rounded.iter_mut());
            pool.each(each.collect(), |((_, slots), rounded)| {
                rounded.reserve(slots.len(), k);
                let rows = x(slots).chunks_exact(k).zip(rounded.rows_mut());
                rows.for_each(|(x, row)| simd::round(self.isa, x, row));
            });
        }
        // The columns of all ops of the first expert, then those of the second, …
        let n_ops = self.ops.len();
        let widths: Vec<usize> = experts.iter().flat_map(|_| self.widths).copied().collect();
        let tasks = one_row_tasks(&widths, threads);
        pool.run(tasks.len(), &|i, scratch| {
            for (which, columns) in &tasks[i] {
                let (e, op) = (which / n_ops, which % n_ops);
                let (expert, slots) = experts[e];
                let (matrix, bias) = self.weights(op, *expert);
                let input = Input { x: x(slots), rounded: &rounded[e] };
                // SAFETY: a column of an expert's slots is in one task only.
                let mut y =
                    unsafe { self.parts.columns_of_rows(op, &self.slots.order[slots.clone()], columns.clone()) };
                simd::matvec(self.isa, &matrix, bias, input, &mut y, scratch);
            }
        });
    }

    /// Multiplies an expert with many slots.
    fn many(&self, pool: &mut Pool, threads: usize, expert: usize, slots: &Range<usize>, packed: &mut gemm::Packed) {
        packed.fill(self.isa, pool, &self.x[slots.start * self.k..slots.end * self.k], self.k);
        let tasks = even_tasks_for(self.isa, self.widths, threads);
        pool.run(tasks.len(), &|i, scratch| {
            for (op, columns) in &tasks[i] {
                let (matrix, bias) = self.weights(*op, expert);
                // SAFETY: a column of the expert's slots is in one task only.
                let mut y =
                    unsafe { self.parts.columns_of_rows(*op, &self.slots.order[slots.clone()], columns.clone()) };
                gemm::multiply(self.isa, &matrix, bias, packed, &mut y, scratch);
            }
        });
    }

    /// The matrix and the bias that an op has for an expert.
    fn weights(&self, op: usize, expert: usize) -> (crate::quant::Weight, Option<&[f32]>) {
        let rows = expert * self.widths[op]..(expert + 1) * self.widths[op];
        let bias = self.ops[op].vector.as_deref().map(|bias| &bias[rows.clone()]);
        (self.ops[op].matrix().rows(rows), bias)
    }
}
