//! What several architectures share: rotary embeddings out of a file's keys, the gated feed-forward layer, the output.

use super::config::Config;
use super::keys::Keys;
use crate::error::{Error, Result};
use crate::graph::{Activation, Block, GraphBuilder, Rope, RopeKind, Val};

/// The rotary embedding with this base frequency, divided by `factor` as linear position scaling does:
/// pair i turns by `base^(-2i / n) / factor` radians a position, where n is `rope.dimension_count`.
pub(super) fn rope(keys: &Keys<'_>, c: &Config, kind: RopeKind, base: f32, factor: f32) -> Result<Rope> {
    let key = "rope.dimension_count";
    let n = keys.opt_count(key, c.head_dim)?.unwrap_or(c.head_dim);
    if !n.is_multiple_of(2) {
        return Err(keys.bad(key, "an even number", n));
    }
    let (base, factor) = (f64::from(base), f64::from(factor));
    let inv_freq = (0..n / 2).map(|i| base.powf(-2.0 * i as f64 / n as f64) / factor).collect();
    Ok(Rope { kind, inv_freq, scale: 1.0 })
}

/// `rope.freq_base`, or what it is where a file does not say.
pub(super) fn rope_base(keys: &Keys<'_>) -> Result<f32> {
    Ok(keys.opt_positive("rope.freq_base")?.unwrap_or(10_000.0))
}

/// The factor of linear position scaling; 1 where a file has none.
pub(super) fn rope_factor(keys: &Keys<'_>) -> Result<f32> {
    match keys.opt_str("rope.scaling.type")? {
        Some("none") => Ok(1.0),
        None | Some("linear") => {
            // The second key is the older one.
            let factor = keys.opt_positive_or_zero("rope.scaling.factor")?;
            Ok(factor.map_or_else(|| keys.opt_positive_or_zero("rope.scale_linear"), |f| Ok(Some(f)))?.unwrap_or(1.0))
        }
        Some(other) => Err(keys.bad("rope.scaling.type", "none or linear", other)),
    }
}

/// Divides each frequency by its factor in the tensor `rope_freqs.weight`, where the file has it (Llama 3.1 and later).
pub(super) fn apply_rope_freqs(keys: &Keys<'_>, rope: &mut Rope) -> Result<()> {
    let tensor = "rope_freqs.weight";
    let Some(weight) = keys.gguf().weight(tensor)? else { return Ok(()) };
    let expected = vec![rope.inv_freq.len()];
    if weight.shape != expected {
        return Err(Error::TensorShape { tensor: tensor.into(), expected, found: weight.shape });
    }
    for (inv_freq, factor) in rope.inv_freq.iter_mut().zip(weight.to_f32()) {
        if !(factor.is_finite() && factor > 0.0) {
            return Err(Error::BadKey {
                key: tensor.into(),
                expected: "numbers above 0".into(),
                found: factor.to_string(),
            });
        }
        *inv_freq /= f64::from(factor);
    }
    Ok(())
}

/// act(h · Wgateᵀ) · (h · Wupᵀ), projected down: `[T, D]`.
pub(super) fn gated_ffn(b: &Block<'_>, c: &Config, h: Val, act: Activation) -> Val {
    let gate = b.matmul("ffn_gate", h, c.n_ff); // [T, F]
    let up = b.matmul("ffn_up", h, c.n_ff); // [T, F]
    b.matmul("ffn_down", b.gated(gate, up, act), c.n_embd)
}

/// Logits `[N, V]` of the rows that are wanted: only these go through the last norm and the output matrix, which is the
/// embedding table where the file has none of its own.
pub(super) fn output(g: &GraphBuilder<'_>, c: &Config, x: Val) -> Val {
    let h = g.rms_norm("output_norm", g.output_rows(x), c.rms_eps); // [N, D]
    if g.has("output") { g.matmul("output", h, c.n_vocab) } else { g.matmul_tied("output", h, c.n_vocab, "token_embd") }
}
