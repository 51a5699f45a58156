//! Matrix product with the matrix of one expert, for one row: no other expert's is read.

use super::dot::dot;
use crate::backend::cpu::multiversion::multiversion;
use crate::quant::Weight;

multiversion! {
    /// out[m] = x · W[m] + bias[m]: W `[M, K]` of the expert, x `[K]`, bias `[M]`; scratch holds K numbers.
    pub(crate) fn expert_matmul(weight: &Weight, bias: Option<&[f32]>, x: &[f32], out: &mut [f32], scratch: &mut [f32]) {
        let row = &mut scratch[..x.len()];
        for (m, (out, bytes)) in out.iter_mut().zip(weight.bytes.chunks_exact(weight.row_bytes())).enumerate() {
            (weight.format.dequantize)(bytes, row);
            *out = dot(row, x) + bias.map_or(0.0, |bias| bias[m]);
        }
    }
}
