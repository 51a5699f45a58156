//! Rotary embeddings out of a file's keys and tensors: base, factors by pair, and what stretches them over longer contexts.
//!
//! All of it ends in one list of frequencies and one factor, so that no back end knows a kind of scaling.

use super::config::Config;
use super::keys::Keys;
use crate::error::{Error, Result};
use crate::graph::{Rope, RopeKind};

/// An embedding that nothing scales: pair i turns by `base^(-2i / n)` radians a position, where n is `rope.dimension_count`.
pub(super) fn plain(keys: &Keys<'_>, c: &Config, kind: RopeKind, base: f32) -> Result<Rope> {
    let key = "rope.dimension_count";
    let n = keys.opt_count(key, c.head_dim)?.unwrap_or(c.head_dim);
    if !n.is_multiple_of(2) {
        return Err(keys.bad(key, "an even number", n));
    }
    let base = f64::from(base);
    let inv_freq = (0..n / 2).map(|i| base.powf(-2.0 * i as f64 / n as f64)).collect();
    Ok(Rope { kind, inv_freq, scale: 1.0 })
}

/// The embedding of a layer without positions, beside layers with `rope`: nothing turns, and nothing else differs, so that all
/// layers run alike.
pub(super) fn still(rope: &Rope) -> Rope {
    Rope { inv_freq: vec![0.0; rope.inv_freq.len()], scale: 1.0, ..*rope }
}

/// `rope.freq_base`, or what it is where a file does not say.
pub(super) fn base(keys: &Keys<'_>) -> Result<f32> {
    Ok(keys.opt_positive("rope.freq_base")?.unwrap_or(10_000.0))
}

/// The file's embedding, with everything that scales it.
pub(super) fn scaled(keys: &Keys<'_>, c: &Config, kind: RopeKind) -> Result<Rope> {
    let base = base(keys)?;
    let mut rope = plain(keys, c, kind, base)?;
    divide_by_tensor(keys, factors(keys, c)?, &mut rope)?;
    rope.scale = keys.opt_positive_or_zero("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let factor = f64::from(scaling_factor(keys)?);
    match keys.opt_str("rope.scaling.type")? {
        Some("none") => {}
        None | Some("linear" | "longrope") => rope.inv_freq.iter_mut().for_each(|inv_freq| *inv_freq /= factor),
        Some("yarn") => yarn(keys, c, &mut rope, f64::from(base), factor)?,
        Some(other) => return Err(keys.bad("rope.scaling.type", "none, linear, longrope or yarn", other)),
    }
    Ok(rope)
}

/// How many times longer contexts are to be than those of the first training; 1 where a file does not say.
fn scaling_factor(keys: &Keys<'_>) -> Result<f32> {
    // The second key is the older one.
    let factor = keys.opt_positive_or_zero("rope.scaling.factor")?;
    Ok(factor.map_or_else(|| keys.opt_positive_or_zero("rope.scale_linear"), |f| Ok(Some(f)))?.unwrap_or(1.0))
}

/// Positions of the first training.
fn original_context(keys: &Keys<'_>, c: &Config) -> Result<usize> {
    Ok(keys.opt_count_or_zero("rope.scaling.original_context_length", i32::MAX as usize)?.unwrap_or(c.n_ctx))
}

/// The tensor with a factor for each pair: one for all contexts (Llama 3.1), or one of two by the context's length (LongRoPE).
///
/// Source: Ding et al., <https://arxiv.org/abs/2402.13753>.
fn factors(keys: &Keys<'_>, c: &Config) -> Result<&'static str> {
    let freqs = "rope_freqs.weight";
    Ok(match keys.n_ctx() > original_context(keys, c)? {
        _ if keys.source().shape(freqs).is_some() => freqs,
        true => "rope_factors_long.weight",
        false => "rope_factors_short.weight",
    })
}

/// Divides each frequency by its factor in a tensor, where the file has it.
fn divide_by_tensor(keys: &Keys<'_>, tensor: &str, rope: &mut Rope) -> Result<()> {
    let Some(weight) = keys.source().weight(tensor)? else { return Ok(()) };
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

/// YaRN: pairs that turn slowly are slowed down by `factor`, those that turn fast are left alone, and between the two they are
/// mixed; what is attended to is sharpened a little.
///
/// Source: Peng et al., <https://arxiv.org/abs/2309.00071>, section 3.
fn yarn(keys: &Keys<'_>, c: &Config, rope: &mut Rope, base: f64, factor: f64) -> Result<()> {
    let n_ctx = original_context(keys, c)? as f64;
    let n = 2 * rope.inv_freq.len();
    let beta = |key: &str, default: f32| Ok(f64::from(keys.opt_positive_or_zero(key)?.unwrap_or(default)));
    // The pair that turns so many times in the context of the first training.
    let pair = |turns: f64| n as f64 * (n_ctx / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
    let first = pair(beta("rope.scaling.yarn_beta_fast", 32.0)?);
    let last = pair(beta("rope.scaling.yarn_beta_slow", 1.0)?);
    // gpt-oss was trained without rounding, which only files of ours say.
    let is_rounded = keys.opt_bool("rope.scaling.yarn_truncate")?.unwrap_or(true);
    let (first, last) = if is_rounded { (first.floor(), last.ceil()) } else { (first, last) };
    let (first, last) = (first.max(0.0), last.min(n as f64 - 1.0));
    for (i, inv_freq) in rope.inv_freq.iter_mut().enumerate() {
        let slow = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
        *inv_freq *= slow / factor + (1.0 - slow);
    }
    // Models that sharpen scores by themselves say how much of it they do.
    let done = f64::from(keys.opt_positive_or_zero("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0));
    let sharpened = |much: f64| 1.0 + 0.1 * much * factor.max(1.0).ln();
    rope.scale *= (sharpened(1.0) / sharpened(done)) as f32;
    Ok(())
}
