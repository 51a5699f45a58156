//! Products of few rows of x with weights as they lie in the file, which is read once, at the memory's speed.
//!
//! Weight rows are taken in lots that stay in the first-level cache: their scales are unpacked, then [`M`] rows at a time
//! are multiplied. The multiplication itself is an instruction set's own ([`Dots`]).

use super::activations::{ActivationRow, Activations, BLOCK};
use super::scales::{self, BlockScales, Scales};
use super::vector::Vector;
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows that are multiplied together.
pub(super) const M: usize = 4;
/// Blocks in a lot, unless M rows are more.
const LOT_BLOCKS: usize = 128;
/// Bytes that are copied before they are read, where a read may go beyond the weight.
const SLACK: usize = 64;

/// How an instruction set multiplies rows of the format `F`.
///
/// # Safety
/// `dots` reads no more than [`Weights`] says is there.
pub(super) unsafe trait Dots<F> {
    /// The registers of this instruction set.
    type Vector: Vector;
    /// Bytes behind a row that are read as well, whatever they are; at most 64.
    const BEYOND: usize;

    /// Unpacks the scales of the `n_groups` groups from `p` on, behind which `readable` bytes can be read.
    ///
    /// # Safety
    /// The processor has the instruction set, and the groups can be read.
    #[inline(always)]
    unsafe fn unpack(scales: &mut Scales<'_>, p: *const u8, n_groups: usize, readable: usize)
    where
        F: BlockScales,
    {
        let _ = readable;
        // SAFETY: as the caller promises.
        unsafe { scales.unpack::<F, Self::Vector>(p, n_groups) }
    }

    /// The products of `N` weight rows with x.
    ///
    /// # Safety
    /// The processor has the instruction set, and each row has the blocks that x has.
    unsafe fn dots<const N: usize>(rows: [WeightRow; N], x: ActivationRow<'_>) -> [f32; N];
}

/// A weight row, and the scale and offset of each of its blocks (or groups, where their blocks share a scale).
#[derive(Clone, Copy)]
pub(super) struct WeightRow {
    pub(super) bytes: *const u8,
    pub(super) scales: *const f32,
    pub(super) mins: *const f32,
}

/// Weight rows in a lot: a multiple of M.
const fn lot_rows(n_blocks: usize) -> usize {
    let rows = LOT_BLOCKS / if n_blocks == 0 { 1 } else { n_blocks };
    if rows < M { M } else { rows - rows % M }
}

/// f32s of scratch that [`matvec`] needs for rows of `k` weights.
pub(super) fn scratch_len(k: usize) -> usize {
    let n_blocks = k.div_ceil(BLOCK);
    // At most 34 bytes a block, of which one row is copied.
    let copy = (n_blocks * 34 + 2 * SLACK) / size_of::<f32>();
    scales::scratch_len(lot_rows(n_blocks) * n_blocks) + copy
}

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn matvec<F: BlockScales, D: Dots<F>>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    let rows = y.range();
    let n_blocks = x.n_blocks();
    let row_bytes = n_blocks / F::GROUP * F::GROUP_BYTES;
    assert!(row_bytes == weight.row_bytes() && n_blocks.is_multiple_of(F::GROUP), "rows of x and of the weight");
    let bytes = &weight.bytes[..rows.end * row_bytes];
    let whole = weight.bytes.len();
    let lot_rows = lot_rows(n_blocks);
    let (scales, copy) = scratch.split_at_mut(scales::scratch_len(lot_rows * n_blocks));
    let copy: &mut [u8] = bytemuck::cast_slice_mut(copy);
    let mut scales = Scales::new(lot_rows * n_blocks, scales);
    // Scales in a row.
    let stride = if F::SHARED { n_blocks / F::GROUP } else { n_blocks };
    let mut store = |t: usize, m: usize, sum: f32| y.set(t, m, bias.map_or(sum, |bias| sum + bias[m]));
    for first in rows.clone().step_by(lot_rows) {
        let end = rows.end.min(first + lot_rows);
        // SAFETY: the rows lie within the weight, and the processor has the instruction set.
        unsafe {
            let n_groups = (end - first) * n_blocks / F::GROUP;
            D::unpack(&mut scales, bytes[first * row_bytes..].as_ptr(), n_groups, whole - end * row_bytes);
        }
        let row = |m: usize| {
            let [scales, mins] = scales.at((m - first) * stride);
            WeightRow { bytes: bytes[m * row_bytes..].as_ptr(), scales, mins }
        };
        // Rows that what is read beyond them lies within the weight, too.
        let readable = ((whole - D::BEYOND.min(whole)) / row_bytes).min(end);
        for t in 0..x.n_rows() {
            let x = x.row(t);
            let mut m = first;
            while m + M <= readable {
                let rows = [row(m), row(m + 1), row(m + 2), row(m + 3)];
                // SAFETY: as above, and what is read beyond a row lies within the weight.
                let sums = unsafe { D::dots(rows, x) };
                for (i, sum) in sums.into_iter().enumerate() {
                    store(t, m + i, sum);
                }
                m += M;
            }
            for m in m..end {
                let mut row = row(m);
                if m >= readable {
                    copy[..row_bytes].copy_from_slice(&bytes[m * row_bytes..][..row_bytes]);
                    row.bytes = copy.as_ptr();
                }
                // SAFETY: as above; the copy has room behind it.
                let [sum] = unsafe { D::dots([row], x) };
                store(t, m, sum);
            }
        }
    }
}

const _: () = assert!(M == 4, "rows are listed four by four");
