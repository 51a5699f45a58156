//! Deals attention out to threads: blocks of queries with all that they see or, where these are few, with a chunk of it.

use super::simd::Isa;
use super::simd::attention::{self, Inputs, Merge, Partials, Whole};
use super::threads::{Matrix, Parts, Pool};

/// Tasks for each thread where chunks are dealt out: each begins with keys that nobody has asked memory for.
const TASKS: usize = 4;

/// Computes attention of all rows of a step, out `[T, H·Dh]`; `partials` is kept between calls.
pub(super) fn run(
    isa: Isa,
    pool: &mut Pool,
    threads: usize,
    partials: &mut Vec<f32>,
    inputs: Inputs<'_>,
    out: Matrix<'_>,
) {
    let spec = inputs.spec;
    let blocks = attention::blocks(isa, threads, inputs);
    let width = out.width;
    let parts = Parts::new(&mut [out]);
    if !attention::divides(spec, &blocks, threads) {
        pool.run(blocks.len() * spec.n_head_kv, &|task, scratch| {
            // The longest first, so that threads finish together.
            let block = &blocks[blocks.len() - 1 - task / spec.n_head_kv];
            // SAFETY: a row and a head are in one task only.
            let mut out = unsafe { parts.columns(0, 0..width) };
            let head_kv = task % spec.n_head_kv;
            attention::whole(isa, Whole { inputs, block, head_kv, scratch, out: &mut out });
        });
        return;
    }
    let items = attention::items(spec, &blocks);
    let (each, len) = (items.len().div_ceil(threads * TASKS), attention::partial_len(inputs, &blocks));
    partials.resize(partials.len().max(items.len() * len), 0.0);
    let partials = &mut partials[..items.len() * len];
    pool.chunks(partials, each * len, |task, partials, scratch| {
        let items = &items[task * each..][..partials.len() / len];
        attention::partials(isa, Partials { inputs, items, partials, scratch });
    });
    // SAFETY: there are no other tasks.
    let mut out = unsafe { parts.columns(0, 0..width) };
    isa.run(Merge { inputs, blocks: &blocks, partials, out: &mut out });
}
