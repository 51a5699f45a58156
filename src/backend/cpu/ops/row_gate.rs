//! A gate for a whole row, as Qwen2 MoE has it for the expert that all rows use.
//!
//! Source: Yang et al., <https://arxiv.org/abs/2407.10671>, section 2.2.2.

use super::route::sigmoid;

/// out = sigmoid(gate) · x
pub(crate) fn row_gate(x: &[f32], gate: f32, out: &mut [f32]) {
    let factor = sigmoid(gate);
    for (out, x) in out.iter_mut().zip(x) {
        *out = factor * x;
    }
}
