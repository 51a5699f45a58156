//! RMSNorm: a row divided by the root of its mean square, times a learned weight.
//!
//! Source: Zhang and Sennrich, <https://arxiv.org/abs/1910.07467>, equation 4.

use super::dot::dot;
use crate::backend::cpu::multiversion::multiversion;

multiversion! {
    /// out = x / √(mean(x²) + eps) · weight, over each run of `weight.len()` numbers: a row `[D]`, or each head of it.
    pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let mean_square = dot(x, x) / n as f32;
            let scale = 1.0 / (mean_square + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        }
    }
}
