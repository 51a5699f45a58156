//! The ops of a graph, one file each, written to be read: these define what the GPU's kernels must compute.
//!
//! An op works on one row (or on one weight row with all rows of a step) and knows nothing of threads. All arithmetic
//! is f32, and the order of each sum is fixed by the shapes alone, so that a row's result does not depend on the step
//! it is part of, or on how a step is divided among threads.

pub(super) mod add;
pub(super) mod attention;
mod dot;
pub(super) mod embed;
pub(super) mod expert_matmul;
pub(super) mod expert_sum;
pub(super) mod gated;
pub(super) mod kv;
pub(super) mod matmul;
pub(super) mod output_rows;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod route;
pub(super) mod row_gate;
pub(super) mod scale;
pub(super) mod softcap;
