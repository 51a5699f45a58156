//! Embedding lookup: a token becomes a row of the table, dequantized and scaled.

use crate::quant::Weight;

/// out `[D]` = table `[V, D]` at row `token`, times `scale`.
pub(crate) fn embed(table: &Weight, token: u32, scale: f32, out: &mut [f32]) {
    let row_bytes = table.row_bytes();
    let row = &table.bytes[token as usize * row_bytes..][..row_bytes];
    (table.format.dequantize)(row, out);
    for x in out {
        *x *= scale;
    }
}
