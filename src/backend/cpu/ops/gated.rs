//! Gated activation: act(gate) · up, as in GLU variants of the feed-forward layer.
//!
//! Source: Shazeer, <https://arxiv.org/abs/2002.05202>; GELU's tanh form: Hendrycks and Gimpel,
//! <https://arxiv.org/abs/1606.08415>, section 2; gpt-oss: its reference code, <https://github.com/openai/gpt-oss>.

use std::f32::consts::FRAC_1_SQRT_2;
use std::f32::consts::FRAC_2_SQRT_PI;

use crate::graph::Activation;

/// out = act(gate) · up, number by number.
pub(crate) fn gated(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let glu = match act {
        Activation::Silu => |gate, up| silu(gate) * up,
        Activation::Gelu => |gate, up| gelu(gate) * up,
        Activation::SwigluOai => swiglu_oai,
    };
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = glu(*gate, *up);
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

/// With bounds of 7, and a slope of the sigmoid that makes it close to GELU.
fn swiglu_oai(gate: f32, up: f32) -> f32 {
    let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
    gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
}
