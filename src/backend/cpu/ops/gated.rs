//! Gated activation: act(gate) · up, as in GLU variants of the feed-forward layer.
//!
//! Source: Shazeer, <https://arxiv.org/abs/2002.05202>; GELU's tanh form: Hendrycks and Gimpel,
//! <https://arxiv.org/abs/1606.08415>, section 2.

use std::f32::consts::FRAC_1_SQRT_2;
use std::f32::consts::FRAC_2_SQRT_PI;

use crate::graph::Activation;

/// out = act(gate) · up, number by number.
pub(crate) fn gated(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let act = match act {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
    };
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = act(*gate) * up;
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f32) -> f32 {
    // √(2/π)
    const C: f32 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    0.5 * x * (1.0 + (C * (x + 0.044715 * x * x * x)).tanh())
}
