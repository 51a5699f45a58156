//! Runs the ops that have SIMD kernels: matrix products of one input together, their activations rounded once.

use super::simd::activations::Activations;
use super::simd::{self, Input, Isa};
use super::threads::{Matrix, Pool};
use super::values::Values;
use super::{CpuProgram, OpWeights};
use crate::graph::{Graph, Op, ValueId};

/// Numbers of activations that one thread rounds sooner than two: some microseconds.
const ROUND_ALONE: usize = 16 * 1024;

/// Weight rows in a task of a product with one row: long enough that memory streams, short enough that threads
/// finish together.
const DECODE_ROWS: usize = 64;

/// Weight rows in a task of a product with several rows.
const PREFILL_ROWS: usize = 32;

/// What the kernels keep between ops.
pub(super) struct Fast {
    pub(super) isa: Isa,
    rounded: Activations,
}

impl Fast {
    pub(super) fn new(isa: Isa) -> Self {
        Self { isa, rounded: Activations::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rounded.bytes()
    }
}

/// Scratch numbers that a task needs at most.
pub(super) fn scratch_len(graph: &Graph, isa: Isa) -> usize {
    let needs = graph.ops.iter().map(|op| match op {
        Op::MatMul { weight, .. } => simd::matvec_scratch_len(isa, weight.shape[1]),
        _ => 0,
    });
    needs.max().unwrap_or(0)
}

/// The ops of a graph in groups that run as one, in an order in which they can: products of one input together.
pub(super) fn groups(graph: &Graph) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of_input = vec![None; graph.ops.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        if let Op::MatMul { x, .. } = op {
            match group_of_input[x.index()] {
                Some(group) => {
                    let group: &mut Vec<usize> = &mut groups[group];
                    group.push(i);
                    continue;
                }
                None => group_of_input[x.index()] = Some(groups.len()),
            }
        }
        groups.push(vec![i]);
    }
    groups
}

impl CpuProgram {
    /// Runs matrix products of one input, on all rows of the step.
    pub(super) fn run_matmuls(&mut self, group: &[usize]) {
        let Self { graph, weights, values, pool, fast, .. } = self;
        let Fast { isa, rounded } = fast.as_mut().expect("groups are made for kernels");
        let isa = *isa;
        let Op::MatMul { x: input, weight, .. } = &graph.ops[group[0]] else { unreachable!("a group of products") };
        let k = weight.shape[1];
        let mut buffers: Vec<Vec<f32>> = group.iter().map(|&i| values.take(ValueId(i as u32))).collect();
        let x = values.get(*input);
        if group.iter().any(|&i| simd::wants_rounded(weights[i].matrix().format)) {
            round(isa, pool, x, k, rounded);
        }
        let mut outs: Vec<Matrix<'_>> =
            buffers.iter_mut().zip(group).map(|(buffer, &i)| out(values, graph, buffer, i)).collect();
        let ops: Vec<&OpWeights> = group.iter().map(|&i| &weights[i]).collect();
        let input = Input { x, rounded };
        let n_columns = if input.x.len() == k { DECODE_ROWS } else { PREFILL_ROWS };
        pool.matrices(&mut outs, n_columns, |i, y, scratch| {
            simd::matvec(isa, ops[i].matrix(), ops[i].vector.as_deref(), input, y, scratch);
        });
        for (buffer, &i) in buffers.into_iter().zip(group) {
            values.put(ValueId(i as u32), buffer);
        }
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
