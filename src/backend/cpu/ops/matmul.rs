//! Matrix product with a quantized weight: y = x · Wᵀ, each weight dequantized exactly and once a step.
//!
//! A few weight rows are dequantized into scratch and multiplied with all rows of x, two by two (one row of x alone
//! takes four weight rows at once): that keeps the processor's multipliers busy, where single dot products wait for
//! loads. Which rows go together changes no bit, see [`dots`].

use super::dot::dots;
use crate::backend::cpu::multiversion::multiversion;
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows that are dequantized together; scratch holds as many.
pub(crate) const PANEL: usize = 8;

multiversion! {
    /// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
    ///
    /// W `[M, K]`, x `[T, K]`, y `[T, M]`, bias `[M]`; scratch holds `PANEL * K` numbers.
    pub(crate) fn matmul(weight: &Weight, bias: Option<&[f32]>, x: &[f32], y: &mut Columns<'_>, scratch: &mut [f32]) {
        let k = weight.row_len();
        let row_bytes = weight.row_bytes();
        let n_rows = x.len() / k;
        let x_row = |t: usize| &x[t * k..][..k];
        let rows = y.range();
        let mut store = |t: usize, m: usize, sum: f32| y.set(t, m, bias.map_or(sum, |bias| sum + bias[m]));
        for first in rows.clone().step_by(PANEL) {
            let panel_len = PANEL.min(rows.end - first);
            let panel = &mut scratch[..panel_len * k];
            (weight.format.dequantize)(&weight.bytes[first * row_bytes..][..panel_len * row_bytes], panel);
            let w_row = |m: usize| &panel[m * k..][..k];

            // 1. Pairs of x rows with pairs of weight rows.
            let paired_x = n_rows - n_rows % 2;
            let paired_w = panel_len - panel_len % 2;
            for t in (0..paired_x).step_by(2) {
                for m in (0..paired_w).step_by(2) {
                    let sums = dots([w_row(m), w_row(m + 1)], [x_row(t), x_row(t + 1)]);
                    for (i, sums) in sums.iter().enumerate() {
                        for (j, sum) in sums.iter().enumerate() {
                            store(t + j, first + m + i, *sum);
                        }
                    }
                }
            }
            // 2. The last x row, if it is alone, with weight rows by four.
            let fours = paired_w - paired_w % 4;
            for t in paired_x..n_rows {
                for m in (0..fours).step_by(4) {
                    let sums = dots([w_row(m), w_row(m + 1), w_row(m + 2), w_row(m + 3)], [x_row(t)]);
                    for (i, [sum]) in sums.iter().enumerate() {
                        store(t, first + m + i, *sum);
                    }
                }
            }
            // 3. What is left of the panel at the end of the matrix.
            for t in 0..n_rows {
                let done = if t < paired_x { paired_w } else { fours };
                for m in done..panel_len {
                    let [[sum]] = dots([w_row(m)], [x_row(t)]);
                    store(t, first + m, sum);
                }
            }
        }
    }
}
