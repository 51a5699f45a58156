//! Products of many rows of x by tiles.
//!
//! Some strips of weight rows are dequantized into panels of tiles that stay in the second-level cache, and multiplied with all
//! rows of x, which pass through it once: block by block, each with all strips.

use std::ops::Range;

use super::split::{self, Block, Packed};
use super::{Line, Sums, TILE_DEPTH, TILE_ROWS, Tiles};
use crate::backend::cpu::simd::avx512::vector::Lanes;
use crate::backend::cpu::simd::gemm::unpack::unpack;
use crate::backend::cpu::simd::vector::Vector;
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows in a strip: two tiles.
pub(in crate::backend::cpu) const STRIP: usize = 2 * TILE_ROWS;
/// Weights of a row in a panel.
const DEPTH: usize = 2048;
/// Weights of a row that are dequantized at a time, into the first-level cache: whole blocks of all formats.
const PIECE: usize = 256;
/// Lines of a strip in a step: its tiles h0, h1, l0, l1.
const STEP: usize = 4 * TILE_ROWS;
/// Lines of the panels that are there together: half of a second-level cache, a megabyte.
const PANELS: usize = 4 * panel_len(DEPTH);

const _: () = assert!(DEPTH.is_multiple_of(PIECE) && PIECE.is_multiple_of(TILE_DEPTH) && TILE_ROWS == Lanes::LEN);

/// f32s of scratch that [`multiply`] needs for rows of `k` weights.
pub(in crate::backend::cpu) fn scratch_len(k: usize) -> usize {
    // One line more for alignment.
    (PIECE + PANELS / panel_len(k.min(DEPTH)) * panel_len(k.min(DEPTH)) + 1) * TILE_ROWS
}

/// Lines of the panel of a strip, as many f32s as a line has from one to the next.
const fn panel_len(depth: usize) -> usize {
    STEP * depth.div_ceil(TILE_DEPTH)
}

/// See [`gemm::multiply`](crate::backend::cpu::simd::gemm::multiply).
pub(in crate::backend::cpu) fn multiply(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Packed,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    assert_eq!((x.k, x.n_rows), (weight.row_len(), y.n_rows()), "rows of x, of the weight and of y");
    let tiles = Tiles::new(x.tile_rows, size_of::<Line>());
    let mut sums = Sums([[[0.0; TILE_ROWS]; TILE_ROWS]; 4]);
    let unaligned = scratch.as_ptr().align_offset(align_of::<Line>());
    let (piece, panels) = scratch[unaligned..].split_at_mut(PIECE * TILE_ROWS);
    let columns = y.range();
    // As many strips as there is room for, but equally many each time.
    let (n_strips, most) = (columns.len().div_ceil(STRIP), PANELS / panel_len(x.k.min(DEPTH)));
    let strips = n_strips.div_ceil(n_strips.div_ceil(most));
    for first in columns.clone().step_by(strips * STRIP) {
        let n = strips.min((columns.end - first).div_ceil(STRIP));
        for k in (0..x.k).step_by(DEPTH) {
            let depth = DEPTH.min(x.k - k);
            let panels = &mut panels[..n * panel_len(depth) * TILE_ROWS];
            let panels: &mut [Line] = bytemuck::cast_slice_mut(panels);
            for (i, panel) in panels.chunks_exact_mut(panel_len(depth)).enumerate() {
                let start = first + i * STRIP;
                for half in 0..2 {
                    // Where there is no such row the last one stands in.
                    let start = (start + half * TILE_ROWS).min(columns.end - 1);
                    let rows = start..columns.end.min(start + TILE_ROWS);
                    // SAFETY: the processor has AMX, or there would be no tiles, and so AVX-512.
                    unsafe { fill(weight, rows, k, depth, piece, &mut panel[half * TILE_ROWS..]) };
                }
            }
            // Each block of x passes through the first-level cache with all panels, which stay in the second.
            let bias = bias.filter(|_| k == 0);
            for block in x.blocks() {
                for (i, panel) in panels.chunks_exact(panel_len(depth)).enumerate() {
                    let start = first + i * STRIP;
                    let mut part = Part { block: &block, columns: start..columns.end.min(start + STRIP), y };
                    multiply_block(&tiles, &block, panel, k / TILE_DEPTH, &mut sums);
                    // SAFETY: as above.
                    unsafe { part.add(&sums, bias, k > 0) };
                }
            }
        }
    }
}

/// Dequantizes `depth` weights from weight k on of up to sixteen rows into one of the tiles of each part of a panel, whose
/// first lines are `panel`.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn fill(weight: &Weight, rows: Range<usize>, k: usize, depth: usize, piece: &mut [f32], panel: &mut [Line]) {
    for (at, panel) in (0..depth).step_by(PIECE).zip(panel.chunks_mut(panel_len(PIECE))) {
        let n = PIECE.min(depth - at);
        // SAFETY: the processor has AVX-512.
        unsafe { unpack::<Lanes>(weight, rows.clone(), k + at, n, piece, TILE_ROWS) };
        let whole = n.next_multiple_of(TILE_DEPTH) * TILE_ROWS;
        piece[n * TILE_ROWS..whole].fill(0.0);
        for (piece, step) in piece[..whole].chunks_exact(TILE_DEPTH * TILE_ROWS).zip(panel.chunks_mut(STEP)) {
            let (high, low) = step.split_at_mut(2 * TILE_ROWS);
            // SAFETY: as above.
            unsafe { split::split_weights(piece, &mut high[..TILE_ROWS], &mut low[..TILE_ROWS]) };
        }
    }
}

/// The products of a block of x, from a step on, with the panel of a strip.
#[inline(always)]
fn multiply_block(tiles: &Tiles, block: &Block<'_>, panel: &[Line], step: usize, sums: &mut Sums) {
    let (n_steps, x_step) = (panel.len() / STEP, 2 * TILE_ROWS * block.n_tiles());
    let x = &block.lines[step * x_step..][..n_steps * x_step];
    // SAFETY: both have the tiles of as many steps.
    unsafe {
        match block.n_tiles() {
            1 => tiles.one_by_two(x.as_ptr(), panel.as_ptr(), n_steps, sums),
            _ => tiles.two_by_two(x.as_ptr(), panel.as_ptr(), n_steps, sums),
        }
    }
}

/// What a block of x and a strip give: rows of y, and columns of it.
struct Part<'a, 'b> {
    block: &'a Block<'a>,
    columns: Range<usize>,
    y: &'a mut Columns<'b>,
}

impl Part<'_, '_> {
    /// These columns of y for the block's row t.
    #[inline(always)]
    fn row(&mut self, t: usize) -> &mut [f32] {
        let start = self.y.range().start;
        &mut self.y.row(self.block.first + t)[self.columns.start - start..self.columns.end - start]
    }

    /// Adds sums to it, or to the bias, if it is not `more`.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    unsafe fn add(&mut self, Sums(sums): &Sums, bias: Option<&[f32]>, more: bool) {
        // SAFETY: no more than the n columns that there are is read and written.
        unsafe {
            let mut biases = [Lanes::splat(0.0); 2];
            if let Some(bias) = bias {
                for (to, bias) in biases.iter_mut().zip(bias[self.columns.clone()].chunks(TILE_ROWS)) {
                    *to = Lanes::load_first(bias.as_ptr(), bias.len());
                }
            }
            let tile_rows = self.block.tile_rows;
            for t in 0..self.block.n_rows {
                let (tile, row) = if t < tile_rows { (0, t) } else { (2, t - tile_rows) };
                for (half, to) in self.row(t).chunks_mut(TILE_ROWS).enumerate() {
                    let mut sum = Lanes::load(sums[tile + half][row].as_ptr()).add(biases[half]);
                    if more {
                        sum = Lanes::load_first(to.as_ptr(), to.len()).add(sum);
                    }
                    sum.store_first(to.as_mut_ptr(), to.len());
                }
            }
        }
    }
}
