//! Matrix product with a weight of any format: y = x · Wᵀ, on some columns of y.
//!
//! One row of x: weight rows are multiplied as they come from the file, which is read once, at the memory's speed.
//! Several rows: a panel of weight rows is unpacked to 16-bit integers once, and multiplied in tiles of [`M`] × [`N`],
//! in an order in which the panel and as many rows of x as fit stay in the second-level cache.

use std::marker::PhantomData;

use super::dot::{Blocks, FileRow, dots};
use super::formats::Unpack;
use super::panel::Panel;
use super::{floats, quantize, sum, sums};
use crate::backend::cpu::simd::Input;
use crate::backend::cpu::simd::activations::{Activations, BLOCK, CHUNK_BLOCKS, Line};
use crate::backend::cpu::threads::Columns;
use crate::quant::block::Half;
use crate::quant::float::{Brain, Single};
use crate::quant::{Weight, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Weight rows that are unpacked together.
pub(in crate::backend::cpu) const PANEL: usize = 32;
/// Weight rows in a tile.
const M: usize = 4;
/// Rows of x in a tile.
const N: usize = 2;
/// 16-bit numbers of x that stay in the second-level cache beside the panel.
const X_NUMBERS: usize = 96 * 1024;

/// Rounds a row of x, the whole of `out`.
pub(in crate::backend::cpu) use quantize::quantize as round;

/// f32s of scratch that [`matmul`] needs for rows of `k` weights.
pub(in crate::backend::cpu) fn scratch_len(k: usize) -> usize {
    let n_blocks = k.div_ceil(BLOCK).next_multiple_of(CHUNK_BLOCKS);
    // Half an f32 a weight, scale and offset a block, and what aligning them may lose.
    PANEL * (n_blocks * BLOCK / 2 + 2 * n_blocks) + size_of::<Line>() / size_of::<f32>()
}

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// W `[M, K]`, y `[T, M]`, bias `[M]`; scratch has [`scratch_len`] numbers.
pub(in crate::backend::cpu) fn matmul(
    weight: &Weight,
    bias: Option<&[f32]>,
    input: Input<'_>,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    assert!(super::available(), "the processor was asked before");
    let x = input.rounded;
    // SAFETY: the processor has the features.
    unsafe {
        match weight.format.name {
            "F32" => floats::matmul::<Single>(weight, bias, input.x, y),
            "F16" => floats::matmul::<Half>(weight, bias, input.x, y),
            "BF16" => floats::matmul::<Brain>(weight, bias, input.x, y),
            "Q4_0" => blocks::<q4_0::Block>(weight, bias, x, y, scratch),
            "Q4_1" => blocks::<q4_1::Block>(weight, bias, x, y, scratch),
            "Q5_0" => blocks::<q5_0::Block>(weight, bias, x, y, scratch),
            "Q5_1" => blocks::<q5_1::Block>(weight, bias, x, y, scratch),
            "Q8_0" => blocks::<q8_0::Block>(weight, bias, x, y, scratch),
            "Q4_K" => blocks::<q4_k::Block>(weight, bias, x, y, scratch),
            "Q5_K" => blocks::<q5_k::Block>(weight, bias, x, y, scratch),
            "Q6_K" => blocks::<q6_k::Block>(weight, bias, x, y, scratch),
            name => unreachable!("no kernel for {name}"),
        }
    }
}

/// [`matmul`] with a block format.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks<F: Unpack>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    let rows = y.range();
    let mut panel = Panel::<F>::new(weight, rows.end, scratch);
    assert_eq!(panel.n_blocks, x.n_blocks(), "rows of x and of the weight");
    let mut store = |t: usize, m: usize, sum: f32| y.set(t, m, bias.map_or(sum, |bias| sum + bias[m]));
    for first in rows.clone().step_by(PANEL) {
        let len = PANEL.min(rows.end - first);
        // SAFETY: the features are there, and the panel has room for `len` rows, which the weight has.
        unsafe {
            if x.n_rows() == 1 {
                file_rows(&mut panel, first, len, x, &mut |t, m, sum| store(t, first + m, sum));
            } else {
                for i in 0..len {
                    panel.unpack_scales(i, first + i);
                    panel.unpack_quants(i, first + i);
                }
                panel_rows(&panel, len, x, &mut |t, m, sum| store(t, first + m, sum));
            }
        }
    }
}

/// One row of x with `len` rows from `first` on, as they are in the file.
#[inline(always)]
unsafe fn file_rows<F: Unpack>(
    panel: &mut Panel<'_, F>,
    first: usize,
    len: usize,
    x: &Activations,
    store: &mut impl FnMut(usize, usize, f32),
) {
    // SAFETY: as for `blocks`.
    unsafe {
        for m in (0..len - len % M).step_by(M) {
            let mut rows = [FileRow(panel.file_row(first + m), PhantomData::<F>); M];
            for (i, row) in rows.iter_mut().enumerate() {
                panel.unpack_scales(i, first + m + i);
                row.0 = panel.file_row(first + m + i);
            }
            tile::<_, F, M, 1>(rows, panel, 0, m, x, 0, store);
        }
        for m in len - len % M..len {
            panel.unpack_scales(0, first + m);
            let row = FileRow(panel.file_row(first + m), PhantomData::<F>);
            tile::<_, F, 1, 1>([row], panel, 0, m, x, 0, store);
        }
    }
}

/// All rows of x with the `len` rows of the panel.
#[inline(always)]
unsafe fn panel_rows<F: Unpack>(
    panel: &Panel<'_, F>,
    len: usize,
    x: &Activations,
    store: &mut impl FnMut(usize, usize, f32),
) {
    let x_rows = (X_NUMBERS / (x.n_blocks() * BLOCK)).max(1).next_multiple_of(N);
    for start in (0..x.n_rows()).step_by(x_rows) {
        let end = x.n_rows().min(start + x_rows);
        let whole = end - (end - start) % N;
        for m in (0..len).step_by(M) {
            // SAFETY: as for `blocks`.
            unsafe {
                if m + M <= len {
                    let w: [_; M] = std::array::from_fn(|i| panel.panel_row(m + i));
                    for t in (start..whole).step_by(N) {
                        tile::<_, F, M, N>(w, panel, m, m, x, t, store);
                    }
                    if whole < end {
                        tile::<_, F, M, 1>(w, panel, m, m, x, whole, store);
                    }
                    continue;
                }
                for m in m..len {
                    for t in start..end {
                        tile::<_, F, 1, 1>([panel.panel_row(m)], panel, m, m, x, t, store);
                    }
                }
            }
        }
    }
}

/// `RM` weight rows, whose scales the panel has from row `at` on, with `RN` rows of x from t on; they are stored from
/// column m on.
#[inline(always)]
unsafe fn tile<B: Blocks, F: Unpack, const RM: usize, const RN: usize>(
    w: [B; RM],
    panel: &Panel<'_, F>,
    at: usize,
    m: usize,
    x: &Activations,
    t: usize,
    store: &mut impl FnMut(usize, usize, f32),
) {
    let scales = std::array::from_fn(|i| panel.scales(at + i));
    let x = std::array::from_fn(|j| x.row(t + j));
    // SAFETY: as for `blocks`; `F::MINS` is a constant, of which one branch is left.
    unsafe {
        let totals =
            if F::MINS { dots::<B, true, RM, RN>(w, scales, x) } else { dots::<B, false, RM, RN>(w, scales, x) };
        for j in 0..RN {
            if RM == M {
                let sums = sums([totals[0][j], totals[1 % RM][j], totals[2 % RM][j], totals[3 % RM][j]]);
                for (i, sum) in sums.into_iter().enumerate() {
                    store(t + j, m + i, sum);
                }
            } else {
                for (i, totals) in totals.iter().enumerate() {
                    store(t + j, m + i, sum(totals[j]));
                }
            }
        }
    }
}
