//! What the experts of a row gave, together.

/// out `[D]` = the sum of the rows of x `[U, D]`, each times its weight.
pub(crate) fn expert_sum(x: &[f32], weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (x, weight) in x.chunks_exact(out.len()).zip(weights) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += weight * x;
        }
    }
}
