//! Soft cap: keeps numbers within ±cap, and small ones nearly as they are.
//!
//! Source: Bello et al., <https://arxiv.org/abs/1611.09940>, section 5.2, as Gemma 2 uses it on logits and scores.

/// out = cap · tanh(x / cap), number by number.
pub(crate) fn softcap(cap: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = cap * (x / cap).tanh();
    }
}
