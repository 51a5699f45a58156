//! Mixtures of experts with SIMD kernels: each expert's matrix is read once a step, if any row uses it.
//!
//! A *slot* is one of the U uses that a row has for an expert. The slots of a step are sorted by expert; an expert with a few is
//! multiplied as a few rows are, all such experts in one job; one with many goes by way of a panel, as a prompt does. Results
//! are written to where they belong, so that nobody sees the order.

use std::ops::Range;

use super::fast::{self, Group, tasks_of_few, tasks_of_many};
use super::simd::activations::Activations;
use super::simd::{self, Input, gemm};
use super::threads::{Columns, Matrix, Parts, Pool};
use super::{CpuProgram, OpWeights};
use crate::graph::{Op, ValueId};

/// What products of experts keep between ops.
#[derive(Default)]
pub(super) struct Scratch {
    slots: Slots,
    /// The rows of x in the order of the slots.
    x: Vec<f32>,
    /// For each expert with few slots its rows, rounded; one for all where they share their only row.
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
    experts: Vec<Used>,
}

/// An expert that is used, and its slots as a range of [`Slots::order`].
type Used = (usize, Range<usize>);

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

/// The inputs of an [`Op::ExpertMatMul`], and U.
fn inputs(op: &Op) -> (ValueId, ValueId, usize) {
    let Op::ExpertMatMul { x, route, n_used, .. } = op else { unreachable!("{op:?} is no product with experts") };
    (*x, *route, *n_used)
}

impl CpuProgram {
    /// Runs a group: products of one input with experts that one route chose, and perhaps an op behind them, on all rows of the
    /// step.
    pub(super) fn run_experts(&mut self, group: &[usize]) {
        let Self { graph, weights, values, pool, fast, .. } = self;
        let fast = fast.as_mut().expect("groups are made for kernels");
        let Scratch { slots, x, rounded } = &mut fast.experts;
        let (input, route, n_used) = inputs(&graph.ops[group[0]]);
        slots.sort(values.get(route), n_used);
        let n_slots = slots.order.len();

        let (products, behind) = fast::split(graph, group);
        let ops: Vec<&OpWeights> = products.iter().map(|&i| &weights[i]).collect();
        let mut buffers: Vec<Vec<f32>> = group.iter().map(|&i| values.take(ValueId(i as u32))).collect();
        let width = |i: usize| graph.values[i].width / n_used;
        let outs = buffers.iter_mut().zip(group);
        let mut outs: Vec<Matrix<'_>> =
            outs.map(|(buffer, &i)| Matrix { data: &mut buffer[..n_slots * width(i)], width: width(i) }).collect();
        let mixture = Mixture {
            widths: behind.map_or(products, std::slice::from_ref).iter().map(|&i| width(i)).collect(),
            group: Group { isa: fast.isa, graph, values, products, behind },
            threads: fast.threads,
            ops: &ops,
            slots: &slots.order,
            x: values.get(input),
            k: ops[0].expert(0).0.row_len(),
            parts: Parts::new(&mut outs),
        };
        let formats = ops.iter().map(|op| op.expert(0).0.format);
        let are_few = |n_rows| simd::are_few(fast.isa, n_rows, formats.clone());
        let (few, many): (Vec<&Used>, Vec<&Used>) = slots.experts.iter().partition(|(_, slots)| are_few(slots.len()));
        mixture.few(pool, &few, x, rounded);
        many.into_iter().for_each(|expert| mixture.many(pool, expert, x, &mut fast.packed));
        for (buffer, &i) in buffers.into_iter().zip(group) {
            values.put(ValueId(i as u32), buffer);
        }
    }
}

/// The products of a group.
struct Mixture<'a> {
    group: Group<'a>,
    threads: usize,
    ops: &'a [&'a OpWeights],
    /// Columns of what the group makes with an expert.
    widths: Vec<usize>,
    slots: &'a [u32],
    /// A row for each slot, or one for all slots of a row of the step.
    x: &'a [f32],
    k: usize,
    parts: Parts<'a>,
}

impl<'a> Mixture<'a> {
    /// The row of x for a slot.
    fn x_of(&self, slot: u32) -> &'a [f32] {
        let slots_each = self.slots.len() * self.k / self.x.len();
        &self.x[slot as usize / slots_each * self.k..][..self.k]
    }

    /// Copies the rows of x for slots.
    fn gather<'x>(&self, pool: &mut Pool, slots: &[u32], to: &'x mut Vec<f32>) -> &'x [f32] {
        let len = slots.len() * self.k;
        to.resize(to.len().max(len), 0.0);
        let rows = to[..len].chunks_exact_mut(self.k).zip(slots).collect();
        fast::each(pool, len, rows, |(row, &slot)| row.copy_from_slice(self.x_of(slot)));
        &to[..len]
    }

    /// Rounds the rows of x for experts; the only one, if there is but one.
    fn round(&self, pool: &mut Pool, experts: &[&Used], rounded: &mut Vec<Activations>) {
        let n = if self.has_one_row() { 1 } else { experts.len() };
        rounded.resize_with(rounded.len().max(n), Activations::default);
        let each: Vec<_> = experts[..n].iter().zip(rounded).collect();
        let len = each.iter().map(|((_, slots), _)| slots.len() * self.k).sum();
        fast::each(pool, len, each, |((_, slots), rounded)| {
            rounded.reserve(slots.len(), self.k);
            let rows = self.slots[slots.clone()].iter().zip(rounded.rows_mut());
            rows.for_each(|(&slot, row)| simd::round(self.group.isa, self.x_of(slot), row));
        });
    }

    fn has_one_row(&self) -> bool {
        self.x.len() == self.k
    }

    /// Multiplies experts with few slots each, all in one job.
    fn few(&self, pool: &mut Pool, experts: &[&Used], x: &mut Vec<f32>, rounded: &mut Vec<Activations>) {
        if experts.is_empty() {
            return;
        }
        let mut formats = self.ops.iter().flat_map(|op| &op.matrices).map(|matrix| matrix.format);
        let x: &[f32] = if formats.all(simd::wants_rounded) { &[] } else { self.gather(pool, self.slots, x) };
        self.round(pool, experts, rounded);
        // What is made with the first expert, then with the second, …
        let n_each = self.widths.len();
        let widths: Vec<usize> = experts.iter().flat_map(|_| &self.widths).copied().collect();
        let tasks = tasks_of_few(&widths, self.threads);
        pool.run(tasks.len(), &|i, scratch| {
            for (which, columns) in &tasks[i] {
                let e = which / n_each;
                let (expert, slots) = experts[e];
                let x = x.get(slots.start * self.k..slots.end * self.k).unwrap_or_default();
                let input = Input { x, rounded: &rounded[if self.has_one_row() { 0 } else { e }] };
                self.make(which % n_each, columns, slots, &mut |op, y| {
                    let (matrix, bias) = self.ops[op].expert(*expert);
                    simd::matvec(self.group.isa, matrix, bias, input, y, scratch);
                });
            }
        });
    }

    /// Multiplies an expert with many slots.
    fn many(&self, pool: &mut Pool, (expert, slots): &Used, x: &mut Vec<f32>, packed: &mut gemm::Packed) {
        let isa = self.group.isa;
        let x = self.gather(pool, &self.slots[slots.clone()], x);
        packed.fill(isa, pool, x, self.k);
        let tasks = tasks_of_many(isa, &self.widths, self.threads);
        pool.run(tasks.len(), &|i, scratch| {
            for (which, columns) in &tasks[i] {
                self.make(*which, columns, slots, &mut |op, y| {
                    let (matrix, bias) = self.ops[op].expert(*expert);
                    gemm::multiply(isa, matrix, bias, packed, y, scratch);
                });
            }
        });
    }

    /// Makes columns of slots of one expert; `multiply(op, y)` writes those of a product.
    fn make(
        &self,
        which: usize,
        columns: &Range<usize>,
        slots: &Range<usize>,
        multiply: &mut dyn FnMut(usize, &mut Columns<'a>),
    ) {
        let rows = &self.slots[slots.clone()];
        // SAFETY: a column of an expert's slots is in one task only.
        let part = |i| unsafe { self.parts.columns_of_rows(i, rows, columns.clone()) };
        self.group.make(which, &part, multiply);
    }
}
