//! Tensors that no file has: factors by which rotary embeddings turn more slowly, for contexts longer than those trained on.

use super::family::{head_dim, rotated_dims};
use super::keys::{Keys, positive, rope, rope_base, rope_type};
use crate::convert::json::Object;
use crate::error::Result;

/// Names and numbers of such tensors; what comes with them goes into `keys`.
pub(super) fn tensors(c: &Object, keys: &mut Keys) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let rope = rope(c)?;
    match rope_type(&rope)? {
        "llama3" => Ok(vec![("rope_freqs.weight", llama3(c, &rope)?)]),
        "su" | "longrope" => longrope(c, &rope, keys),
        _ => Ok(Vec::new()),
    }
}

/// Llama 3.1: waves that are short against the old context stay, long ones are stretched by `factor`, and those between are
/// stretched in between.
///
/// Source: Grattafiori et al., <https://arxiv.org/abs/2407.21783>, section 3.2, and its reference implementation.
fn llama3(c: &Object, rope: &Object) -> Result<Vec<f32>> {
    let base = f64::from(rope_base(c)?.unwrap_or(10_000.0));
    let dims = head_dim(c)?;
    let factor = f64::from(positive(rope, "factor")?);
    let old_context = f64::from(rope.opt_count("original_max_position_embeddings")?.unwrap_or(8192));
    let low = f64::from(rope.opt_f32("low_freq_factor")?.unwrap_or(1.0));
    let high = f64::from(rope.opt_f32("high_freq_factor")?.unwrap_or(4.0));
    let factor_of = |i: u32| {
        let wave_len = std::f64::consts::TAU * base.powf(f64::from(2 * i) / f64::from(dims));
        let waves = old_context / wave_len;
        if waves > high {
            1.0
        } else if waves < low {
            factor
        } else {
            let smooth = (waves - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..dims / 2).map(|i| factor_of(i) as f32).collect())
}

/// LongRoPE: a factor for each frequency, and others for contexts no longer than the old one.
///
/// Source: Ding et al., <https://arxiv.org/abs/2402.13753>.
fn longrope(c: &Object, rope: &Object, keys: &mut Keys) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let n_ctx = f64::from(c.count("max_position_embeddings")?);
    let original = rope.opt_count("original_max_position_embeddings")?;
    let original = original.map_or_else(|| c.opt_count("original_max_position_embeddings"), |n| Ok(Some(n)))?;
    let original = original.map_or(n_ctx, f64::from);
    let scale = n_ctx / original;
    let attention = if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 };
    keys.set("rope.scaling.attn_factor", attention as f32);
    let n_factors = rotated_dims(c)? as usize / 2;
    let factors = |key| {
        let factors = rope.opt_f32s(key)?.filter(|factors| factors.len() == n_factors);
        factors.ok_or_else(|| rope.bad(key, &format!("{n_factors} numbers")))
    };
    Ok(vec![
        ("rope_factors_long.weight", factors("long_factor")?),
        ("rope_factors_short.weight", factors("short_factor")?),
    ])
}
