//! The metadata of a model, out of its config.json: what most architectures have in common.

use crate::convert::json::Object;
use crate::error::Result;
use crate::gguf::Value;

/// Keys of an architecture, in order.
pub(super) struct Keys {
    arch: &'static str,
    pub(super) entries: Vec<(String, Value)>,
    /// What they cannot say, for people.
    pub(super) notes: Vec<String>,
}

impl Keys {
    pub(super) fn new(arch: &'static str) -> Self {
        Self { arch, entries: Vec::new(), notes: Vec::new() }
    }

    /// Sets `ARCH.key`.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let key = format!("{}.{key}", self.arch);
        self.entries.retain(|(other, _)| *other != key);
        self.entries.push((key, value.into()));
    }
}

/// What nearly all architectures have.
pub(super) fn common(c: &Object, keys: &mut Keys) -> Result<()> {
    keys.set("block_count", c.count("num_hidden_layers")?);
    keys.set("context_length", c.count("max_position_embeddings")?);
    keys.set("embedding_length", c.count("hidden_size")?);
    keys.set("feed_forward_length", c.count("intermediate_size")?);
    let n_head = c.count("num_attention_heads")?;
    keys.set("attention.head_count", n_head);
    keys.set("attention.head_count_kv", c.opt_count("num_key_value_heads")?.unwrap_or(n_head));
    keys.set("attention.layer_norm_rms_epsilon", positive(c, "rms_norm_eps")?);
    // The size of a head, where it is not D / H.
    if let Some(head_dim) = c.opt_count("head_dim")? {
        keys.set("attention.key_length", head_dim);
        keys.set("attention.value_length", head_dim);
    }
    rope_keys(c, keys)
}

/// How many experts there are, if any, and how many of them a token goes through.
pub(super) fn experts(c: &Object, keys: &mut Keys) -> Result<()> {
    for key in ["num_local_experts", "num_experts"] {
        if let Some(n_expert) = c.opt_count(key)? {
            keys.set("expert_count", n_expert);
            keys.set("expert_used_count", c.count("num_experts_per_tok")?);
            break;
        }
    }
    Ok(())
}

/// What config.json says about rotary embeddings: those of layers that see everything, where there are others.
pub(super) fn rope(c: &Object) -> Result<Object> {
    let named = match c.opt_object("rope_parameters")? {
        Some(rope) => Some(rope),
        None => c.opt_object("rope_scaling")?,
    };
    let Some(rope) = named else { return Ok(c.nested(serde_json::Map::new())) };
    Ok(rope.opt_object("full_attention")?.unwrap_or(rope))
}

/// The kind of scaling, under its newer or its older key.
pub(super) fn rope_type(rope: &Object) -> Result<&str> {
    Ok(match rope.opt_str("rope_type")? {
        Some(kind) => kind,
        None => rope.opt_str("type")?.unwrap_or("default"),
    })
}

/// The base frequency of rotary embeddings, if the model says one.
pub(super) fn rope_base(c: &Object) -> Result<Option<f32>> {
    rope(c)?.opt_f32("rope_theta")?.map_or_else(|| c.opt_f32("rope_theta"), |base| Ok(Some(base)))
}

fn rope_keys(c: &Object, keys: &mut Keys) -> Result<()> {
    if let Some(base) = rope_base(c)? {
        keys.set("rope.freq_base", base);
    }
    let sliding = c.opt_object("rope_parameters")?.map_or(Ok(None), |rope| rope.opt_object("sliding_attention"))?;
    if let Some(sliding) = &sliding {
        sliding.known_str(&["rope_type"], &["default"])?;
    }
    let sliding = sliding.map_or(Ok(None), |rope| rope.opt_f32("rope_theta"))?;
    if let Some(base) = sliding.map_or_else(|| c.opt_f32("rope_local_base_freq"), |base| Ok(Some(base)))? {
        keys.set("rope.freq_base_swa", base);
    }
    let rope = rope(c)?;
    match rope_type(&rope)? {
        // Those of llama3 become a tensor.
        "default" | "llama3" => {}
        "linear" => {
            keys.set("rope.scaling.type", "linear");
            keys.set("rope.scaling.factor", positive(&rope, "factor")?);
        }
        "yarn" => {
            keys.set("rope.scaling.type", "yarn");
            keys.set("rope.scaling.factor", positive(&rope, "factor")?);
            keys.set("rope.scaling.original_context_length", rope.count("original_max_position_embeddings")?);
            for (theirs, ours) in
                [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
            {
                if let Some(x) = rope.opt_f32(theirs)? {
                    keys.set(ours, x);
                }
            }
            // Of GGUF's keys none says it; other readers do not know this one, and round as ever.
            if rope.opt_bool("truncate")? == Some(false) {
                keys.set("rope.scaling.yarn_truncate", false);
            }
            yarn_factor(&rope, keys)?;
        }
        "su" | "longrope" => keys.set("rope.scaling.type", "longrope"),
        _ => return Err(rope.bad("rope_type", "default, linear, llama3, yarn or longrope")),
    }
    Ok(())
}

/// The factor that YaRN has on what is attended to, where it is not the usual one, which readers of GGUF know.
fn yarn_factor(rope: &Object, keys: &mut Keys) -> Result<()> {
    let factor = positive(rope, "factor")?;
    let sharpened = |much: f32| 1.0 + 0.1 * much * factor.max(1.0).ln();
    let said = match (rope.opt_f32("attention_factor")?, rope.opt_f32("mscale")?, rope.opt_f32("mscale_all_dim")?) {
        (Some(_), ..) => positive(rope, "attention_factor")?,
        (None, Some(all), Some(each)) if all != 0.0 && each != 0.0 => sharpened(all) / sharpened(each),
        _ => return Ok(()),
    };
    keys.set("rope.scaling.attn_factor", said / sharpened(1.0));
    Ok(())
}

/// A number above zero.
pub(super) fn positive(object: &Object, key: &str) -> Result<f32> {
    object.opt_f32(key)?.filter(|&x| x > 0.0).ok_or_else(|| object.bad(key, "a number above 0"))
}
