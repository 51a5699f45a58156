//! Products of a few rows of x, of two and more, with weights as they lie in the file: exact in integers, one weight row to a lane.
//!
//! A strip of sixteen weight rows is taken apart once, a chunk of 256 weights at a time, into quants in the order in which an
//! instruction set multiplies them ([`Multiply`]), and the scales of their sub-blocks. All rows of x, rounded to 16 bits, are
//! multiplied with these from the first-level cache. What a sub-block adds up to is an exact integer, with a lane for each weight
//! row: so it takes one conversion and one multiplication by a register of scales for sixteen rows, where a matrix that is
//! multiplied row by row takes them for each.

pub(super) mod words;

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::FEW;
use super::activations::{Activations, BLOCK, CHUNK, Line};
use super::gemm::unpack::{Keep, Quants, Rows};
use super::vector::{Vector, prefetch};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows in a strip.
pub(super) const STRIP: usize = 16;
/// Rows of x that are multiplied together, at most.
const TOGETHER: usize = 8;
/// Sub-blocks in a chunk, at most.
pub(super) const SUB_BLOCKS: usize = 16;
/// Bytes from what is read to what is asked of memory, at least.
const FAR: usize = 16384;

/// How an instruction set multiplies.
///
/// # Safety
/// All functions need the instruction set.
pub(super) unsafe trait Multiply {
    /// Its registers.
    type Vector: Vector;
    /// Rows of x that are multiplied together, at most.
    const TOGETHER: usize;

    /// For `rows` rows of x and a format with sub-blocks of `sub_len` weights.
    fn new(rows: usize, sub_len: usize) -> Self;

    /// Keeps four weights, from 4i on, of each row of register v.
    unsafe fn put(chunk: &mut Chunk, i: usize, v: usize, q: <Self::Vector as Vector>::Ints);

    /// Adds to the totals of each of the rows of x its products with a chunk.
    unsafe fn add(&self, chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]);
}

/// `$call` with `$t` as the constant that `$rows` is.
macro_rules! with_rows {
    ($rows:expr, $t:ident in [$($n:literal),*] => $call:expr) => {
        match $rows {
            $($n => {
                const $t: usize = $n;
                $call
            })*
            rows => unreachable!("{rows} rows together"),
        }
    };
}
pub(super) use with_rows;

/// A chunk of the weights of a strip.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Chunk {
    /// A word or two for four weights of each row.
    pub(super) quants: [[u32; STRIP]; CHUNK / 2],
    /// Of each sub-block.
    pub(super) scales: [[f32; STRIP]; SUB_BLOCKS],
    /// The same, if the format has offsets.
    mins: [[f32; STRIP]; SUB_BLOCKS],
}

/// A chunk of some rows of x: where the first one is, and how far it is to the next.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Rows.
    pub(super) rows: usize,
    /// The first number of the chunk.
    pub(super) at: usize,
    /// Whole rows, in the order of the instruction set.
    pub(super) lines: *const Line,
    pub(super) line_stride: usize,
    scale: *const f32,
    scale_stride: usize,
    /// Of each sub-block the sum of its numbers.
    sums: *const f32,
    sum_stride: usize,
    pub(super) sub_len: usize,
    /// Sub-blocks.
    pub(super) n_subs: usize,
    has_mins: bool,
}

/// f32s of scratch that [`product`] needs.
pub(super) const SCRATCH_LEN: usize = (size_of::<Chunk>() + align_of::<Chunk>()) / size_of::<f32>();

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// # Safety
/// The processor has the instruction set of `M`.
#[inline(always)]
pub(super) unsafe fn product<F: Quants, M: Multiply>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    const { assert!(CHUNK.is_multiple_of(F::LEN) && CHUNK <= SUB_BLOCKS * F::SUB_LEN && M::TOGETHER <= TOGETHER) };
    const { assert!(F::SUB_LEN == BLOCK || 2 * F::SUB_LEN == BLOCK) };
    let (n_rows, k, row_bytes) = (x.n_rows(), weight.row_len(), weight.row_bytes());
    assert_eq!((x.n_blocks() * BLOCK, n_rows), (k, y.n_rows()), "rows of x, of the weight and of y");
    assert_eq!(row_bytes, k / F::LEN * size_of::<F>(), "whole groups");
    assert!((2..=FEW).contains(&n_rows), "{n_rows} rows are not few");
    let columns = y.range();
    let bytes = &weight.bytes[..columns.end * row_bytes];
    let unaligned = scratch.as_ptr().align_offset(align_of::<Chunk>());
    let chunk: &mut Chunk = bytemuck::from_bytes_mut(
        &mut bytemuck::cast_slice_mut::<f32, u8>(&mut scratch[unaligned..])[..size_of::<Chunk>()],
    );
    // Of one size: the last ones have some of those before them once more if there are too few.
    let n_parts = n_rows.div_ceil(M::TOGETHER);
    let rows = n_rows.div_ceil(n_parts);
    let first_row = |part: usize| (part * rows).min(n_rows - rows);
    let multiply = M::new(rows, F::SUB_LEN);
    let mut all_totals = [[0.0; STRIP]; FEW + TOGETHER];
    let totals = &mut all_totals[..n_parts * rows];
    for first in columns.clone().step_by(STRIP) {
        let end = columns.end.min(first + STRIP);
        // Where there is no such row the last one stands in.
        let strip: Rows = std::array::from_fn(|i| bytes[(first + i).min(end - 1) * row_bytes..].as_ptr());
        totals.fill([0.0; STRIP]);
        for at in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - at);
            // SAFETY: the processor has the instruction set, and the rows have as many weights from `at` on.
            unsafe {
                take_apart::<F, M>(weight, &strip, at, n, chunk);
                for (part, totals) in totals.chunks_exact_mut(rows).enumerate() {
                    multiply.add(chunk, &part_of::<F>(x, first_row(part), rows, at, n), totals);
                }
            }
        }
        for (part, totals) in totals.chunks_exact(rows).enumerate() {
            for (i, total) in totals.iter().enumerate() {
                let to = &mut y.row(first_row(part) + i)[first - columns.start..end - columns.start];
                match bias {
                    Some(bias) => {
                        to.iter_mut().zip(total).zip(&bias[first..end]).for_each(|((y, sum), bias)| *y = sum + bias);
                    }
                    None => to.copy_from_slice(&total[..end - first]),
                }
            }
        }
    }
}

/// Takes apart the `n` weights from weight `at` on of a strip.
///
/// # Safety
/// The processor has the instruction set, and the rows have these weights.
#[inline(always)]
unsafe fn take_apart<F: Quants, M: Multiply>(weight: &Weight, strip: &Rows, at: usize, n: usize, chunk: &mut Chunk) {
    let group_bytes = size_of::<F>();
    let ahead = strip[0].wrapping_add((STRIP * weight.row_bytes()).max(FAR));
    for g in 0..n / F::LEN {
        let (group, sub, four) = (at / F::LEN + g, g * F::LEN / F::SUB_LEN, g * F::LEN / 4);
        let step = STRIP * group_bytes;
        // SAFETY: as the caller promises.
        unsafe { prefetch::<M::Vector>(ahead.wrapping_add(group * step), step, false) };
        for v in 0..STRIP / M::Vector::LEN {
            let rows: Rows = std::array::from_fn(|i| strip[(v * M::Vector::LEN + i) % STRIP]);
            let mut to = Place::<F, M> { chunk, v, sub, four, by: PhantomData };
            // SAFETY: the group lies within its row, and there is room for a chunk of them.
            unsafe { F::take_apart::<M::Vector>(&rows, group * group_bytes, &mut to) };
        }
    }
}

/// Where a group goes: to register v of a chunk, from a sub-block and four weights on.
struct Place<'a, F, M> {
    chunk: &'a mut Chunk,
    v: usize,
    sub: usize,
    four: usize,
    by: PhantomData<(F, M)>,
}

// SAFETY: as `Keep` says.
unsafe impl<F: Quants, M: Multiply> Keep<M::Vector> for Place<'_, F, M> {
    #[inline(always)]
    unsafe fn scale(&mut self, s: usize, scale: M::Vector, min: M::Vector) {
        let (s, lanes) = (self.sub + s, self.v * M::Vector::LEN..(self.v + 1) * M::Vector::LEN);
        // SAFETY: as the caller promises.
        unsafe {
            scale.store(self.chunk.scales[s][lanes.clone()].as_mut_ptr());
            if F::MINS {
                min.store(self.chunk.mins[s][lanes].as_mut_ptr());
            }
        }
    }

    #[inline(always)]
    unsafe fn quants(&mut self, i: usize, q: <M::Vector as Vector>::Ints) {
        // SAFETY: as the caller promises.
        unsafe { M::put(self.chunk, self.four + i, self.v, q) }
    }
}

/// The `n` numbers from number `at` on, the first of a chunk, of `rows` rows of x from row t on.
fn part_of<F: Quants>(x: &Activations, t: usize, rows: usize, at: usize, n: usize) -> Part {
    assert!(t + rows <= x.n_rows(), "rows {t} to {} of {}", t + rows, x.n_rows());
    let (row, c) = (x.row(t), at / CHUNK);
    let sums = if F::SUB_LEN == BLOCK { row.sums } else { row.half_sums };
    Part {
        rows,
        at,
        lines: row.woven.as_ptr(),
        line_stride: row.woven.len(),
        scale: row.scales[c..].as_ptr(),
        scale_stride: row.scales.len(),
        sums: sums[c * CHUNK / F::SUB_LEN..].as_ptr(),
        sum_stride: sums.len(),
        sub_len: F::SUB_LEN,
        n_subs: n / F::SUB_LEN,
        has_mins: F::MINS,
    }
}

/// Adds to the totals what `T` rows of x and a chunk add up to: `sums`, in units of the rows' scales, and offsets.
///
/// # Safety
/// The processor has the instruction set of `V`, and `x` is of these rows.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
pub(super) unsafe fn finish<V: Vector, const T: usize>(
    chunk: &Chunk,
    x: &Part,
    sums: [[V; 2]; T],
    totals: &mut [[f32; STRIP]],
) {
    let totals = &mut totals[..T];
    for v in 0..STRIP / V::LEN {
        // SAFETY: as the caller promises.
        unsafe {
            let mut all = [V::splat(0.0); T];
            for t in 0..T {
                let scale = V::splat(*x.scale.add(t * x.scale_stride));
                all[t] = V::load(totals[t].as_ptr().add(v * V::LEN)).mul_add(sums[t][v], scale);
            }
            if x.has_mins {
                for s in 0..x.n_subs {
                    let min = V::load(chunk.mins.as_ptr().add(s).cast::<f32>().add(v * V::LEN));
                    for t in 0..T {
                        all[t] = all[t].mul_add(min, V::splat(*x.sums.add(t * x.sum_stride + s)));
                    }
                }
            }
            for t in 0..T {
                all[t].store(totals[t].as_mut_ptr().add(v * V::LEN));
            }
        }
    }
}
