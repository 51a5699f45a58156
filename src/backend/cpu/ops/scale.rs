//! Scaling: all numbers times one, as Granite has it for its logits.

/// out = factor · x, number by number.
pub(crate) fn scale(factor: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = factor * x;
    }
}
