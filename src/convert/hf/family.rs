//! Families of models that Hugging Face's folders hold: what GGUF calls them, which hyper-parameters they have, and what their
//! modules are called.
//!
//! Names and keys are those that llama.cpp's converter writes, since they are what every reader of GGUF knows:
//! <https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py>.

use super::keys::{Keys, common, experts, positive, rope};
use super::patterns;
use crate::convert::json::Object;
use crate::error::Result;

/// A family.
pub(super) struct Family {
    /// What `architectures` of config.json may say.
    pub(super) classes: &'static [&'static str],
    /// GGUF's name of the architecture.
    pub(super) arch: &'static str,
    /// Whether GGUF has elements (2i, 2i + 1) of a head of q and k side by side that Hugging Face has as (i, i + n/2).
    pub(super) permuted: bool,
    /// What norms add to their weight when they compute.
    pub(super) norm_shift: f32,
    /// Whether the embedding table is the output matrix where config.json does not say.
    pub(super) tied: bool,
    /// What `hidden_act` may be: what graphs of the architecture compute.
    pub(super) activations: &'static [&'static str],
    /// What its class takes where config.json does not say.
    pub(super) defaults: &'static [(&'static str, f64)],
    /// Modules that GGUF calls otherwise than [`MODULES`] does.
    pub(super) modules: &'static [(&'static str, &'static str)],
    /// Writes the keys of the architecture.
    pub(super) keys: fn(&Object, &mut Keys) -> Result<()>,
}

/// What modules of a layer are called here and there.
const MODULES: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.sinks", "attn_sinks"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
];

/// Layers with norms before and after each half.
const TWO_NORMS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const PLAIN: Family = Family {
    classes: &[],
    arch: "",
    permuted: false,
    norm_shift: 0.0,
    tied: false,
    activations: &["silu", "swish"],
    defaults: &[],
    modules: &[],
    keys: plain,
};

const GEMMA: Family = Family { norm_shift: 1.0, tied: true, activations: &[GELU_TANH], ..PLAIN };

/// GELU by its approximation with tanh.
const GELU_TANH: &str = "gelu_pytorch_tanh";

/// Gemma's first files say `gelu`, and mean the approximation, with which they were trained.
const GEMMA_1: Family = Family { activations: &[GELU_TANH, "gelu"], ..GEMMA };

const GEMMA_DEFAULTS: &[(&str, f64)] =
    &[("head_dim", 256.0), ("rms_norm_eps", 1e-6), ("max_position_embeddings", 8192.0)];

const GEMMA_2_DEFAULTS: &[(&str, f64)] = &[
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("rms_norm_eps", 1e-6),
    ("max_position_embeddings", 8192.0),
    ("sliding_window", 4096.0),
    ("query_pre_attn_scalar", 256.0),
    ("attn_logit_softcapping", 50.0),
    ("final_logit_softcapping", 30.0),
];

/// The 4B model says nothing but its width and its layers.
const GEMMA_3_DEFAULTS: &[(&str, f64)] = &[
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("rms_norm_eps", 1e-6),
    ("max_position_embeddings", 131_072.0),
    ("sliding_window", 4096.0),
    ("query_pre_attn_scalar", 256.0),
    ("rope_theta", 1e6),
    ("rope_local_base_freq", 1e4),
];

/// Every family.
static FAMILIES: &[Family] = &[
    Family { classes: &["LlamaForCausalLM"], arch: "llama", permuted: true, keys: llama, ..PLAIN },
    Family {
        classes: &["MistralForCausalLM", "MixtralForCausalLM"],
        arch: "llama",
        permuted: true,
        keys: mistral,
        ..PLAIN
    },
    Family { classes: &["Qwen2ForCausalLM"], arch: "qwen2", keys: qwen, ..PLAIN },
    Family { classes: &["Qwen3ForCausalLM"], arch: "qwen3", defaults: &[("head_dim", 128.0)], keys: qwen, ..PLAIN },
    Family { classes: &["Qwen3MoeForCausalLM"], arch: "qwen3moe", keys: qwen3moe, ..PLAIN },
    Family { classes: &["GemmaForCausalLM"], arch: "gemma", defaults: GEMMA_DEFAULTS, keys: gemma, ..GEMMA_1 },
    Family {
        classes: &["Gemma2ForCausalLM"],
        arch: "gemma2",
        defaults: GEMMA_2_DEFAULTS,
        keys: gemma2,
        modules: TWO_NORMS,
        ..GEMMA
    },
    Family {
        classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        arch: "gemma3",
        defaults: GEMMA_3_DEFAULTS,
        keys: gemma3,
        modules: TWO_NORMS,
        ..GEMMA
    },
    Family { classes: &["Phi3ForCausalLM"], arch: "phi3", keys: phi3, ..PLAIN },
    Family { classes: &["SmolLM3ForCausalLM"], arch: "smollm3", permuted: true, keys: smollm3, ..PLAIN },
    Family { classes: &["Olmo2ForCausalLM"], arch: "olmo2", modules: TWO_NORMS, ..PLAIN },
    Family { classes: &["GraniteForCausalLM"], arch: "granite", permuted: true, keys: granite, ..PLAIN },
    Family {
        classes: &["GptOssForCausalLM"],
        arch: "gpt-oss",
        modules: &[("post_attention_layernorm", "post_attention_norm")],
        keys: gpt_oss,
        ..PLAIN
    },
];

impl Family {
    /// The family of a class of models.
    pub(super) fn by_class(class: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.classes.contains(&class))
    }

    /// The classes that have a family.
    pub(super) fn classes() -> Vec<&'static str> {
        FAMILIES.iter().flat_map(|family| family.classes).copied().collect()
    }

    /// What GGUF calls a module of a layer.
    pub(super) fn module(&self, module: &str) -> Option<&'static str> {
        self.modules.iter().chain(MODULES).find(|(name, _)| *name == module).map(|(_, name)| *name)
    }
}

/// What most families say and no more: of each head all elements turn.
fn plain(c: &Object, keys: &mut Keys) -> Result<()> {
    common(c, keys)?;
    match rotated_dims(c)? == head_dim(c)? {
        true => Ok(()),
        false => Err(c.beyond("partial_rotary_factor", "1")),
    }
}

fn llama(c: &Object, keys: &mut Keys) -> Result<()> {
    plain(c, keys)?;
    experts(c, keys)?;
    keys.set("vocab_size", c.count("vocab_size")?);
    keys.set("rope.dimension_count", head_dim(c)?);
    Ok(())
}

fn mistral(c: &Object, keys: &mut Keys) -> Result<()> {
    llama(c, keys)?;
    patterns::lost_windows(c, keys, true)
}

fn smollm3(c: &Object, keys: &mut Keys) -> Result<()> {
    llama(c, keys)?;
    patterns::positions(c, 4)?;
    patterns::lost_windows(c, keys, false)
}

fn qwen(c: &Object, keys: &mut Keys) -> Result<()> {
    plain(c, keys)?;
    patterns::lost_windows(c, keys, false)
}

fn qwen3moe(c: &Object, keys: &mut Keys) -> Result<()> {
    qwen(c, keys)?;
    experts(c, keys)?;
    keys.set("expert_feed_forward_length", c.count("moe_intermediate_size")?);
    if !c.opt_bool("norm_topk_prob")?.unwrap_or(false) {
        keys.set("expert_weights_norm", false);
    }
    patterns::dense_layers(c, keys)
}

fn gemma(c: &Object, keys: &mut Keys) -> Result<()> {
    plain(c, keys)?;
    if c.opt_bool("use_bidirectional_attention")? == Some(true) {
        return Err(c.beyond("use_bidirectional_attention", "attention to what came before"));
    }
    Ok(())
}

/// Scores are scaled by a number that is not always the head's size.
fn attention_scale(c: &Object, keys: &mut Keys) -> Result<()> {
    keys.set("attention.scale", 1.0 / positive(c, "query_pre_attn_scalar")?.sqrt());
    Ok(())
}

fn gemma2(c: &Object, keys: &mut Keys) -> Result<()> {
    gemma(c, keys)?;
    keys.set("attn_logit_softcapping", c.opt_f32("attn_logit_softcapping")?.unwrap_or(0.0));
    keys.set("final_logit_softcapping", c.opt_f32("final_logit_softcapping")?.unwrap_or(0.0));
    attention_scale(c, keys)?;
    patterns::windows(c, keys, 2)
}

fn gemma3(c: &Object, keys: &mut Keys) -> Result<()> {
    gemma(c, keys)?;
    if let Some(cap) = c.opt_f32("final_logit_softcapping")? {
        keys.set("final_logit_softcapping", cap);
    }
    if c.get("attn_logit_softcapping").is_some() {
        return Err(c.beyond("attn_logit_softcapping", "scores as they are"));
    }
    attention_scale(c, keys)?;
    patterns::windows(c, keys, 6)
}

fn phi3(c: &Object, keys: &mut Keys) -> Result<()> {
    common(c, keys)?;
    let n_ctx = c.count("max_position_embeddings")?;
    let original = rope(c)?.opt_count("original_max_position_embeddings")?;
    let original = original.map_or_else(|| c.opt_count("original_max_position_embeddings"), |n| Ok(Some(n)))?;
    keys.set("rope.scaling.original_context_length", original.unwrap_or(n_ctx));
    keys.set("rope.dimension_count", rotated_dims(c)?);
    keys.set("attention.sliding_window", c.opt_count("sliding_window")?.unwrap_or(0));
    patterns::lost_windows(c, keys, true)
}

fn granite(c: &Object, keys: &mut Keys) -> Result<()> {
    llama(c, keys)?;
    for (theirs, ours) in [
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        keys.set(ours, c.opt_f32(theirs)?.unwrap_or(1.0));
    }
    Ok(())
}

fn gpt_oss(c: &Object, keys: &mut Keys) -> Result<()> {
    plain(c, keys)?;
    experts(c, keys)?;
    if c.opt_f32("swiglu_limit")?.is_some_and(|limit| limit != 7.0) {
        return Err(c.beyond("swiglu_limit", "7"));
    }
    patterns::windows(c, keys, 2)?;
    keys.set("expert_feed_forward_length", c.count("intermediate_size")?);
    Ok(())
}

/// No head comes near this size.
const MAX_HEAD_DIM: u32 = 1 << 16;

/// Dh
pub(super) fn head_dim(c: &Object) -> Result<u32> {
    match c.opt_count("head_dim")? {
        Some(head_dim) if head_dim > MAX_HEAD_DIM => Err(c.bad("head_dim", "the size of a head")),
        Some(head_dim) => Ok(head_dim),
        None => Ok((c.count("hidden_size")? / c.count("num_attention_heads")?).min(MAX_HEAD_DIM)),
    }
}

/// Elements of a head that turn.
pub(super) fn rotated_dims(c: &Object) -> Result<u32> {
    let part = match rope(c)?.opt_f32("partial_rotary_factor")? {
        Some(part) => Some(part),
        None => c.opt_f32("partial_rotary_factor")?,
    };
    Ok((part.unwrap_or(1.0) * head_dim(c)? as f32) as u32)
}
