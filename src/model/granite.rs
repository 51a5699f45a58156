//! Granite: a Llama block with a factor on embeddings, on the results of both halves of a layer, on scores and on logits; dense, or
//! a mixture of experts.
//!
//! The factor r on what is added to the residual stream needs no op: everything that reads the stream begins with a norm, so
//! that the stream may be r times smaller throughout. Embeddings are divided by r, and eps by r².
//!
//! Source: Granite Team, "Granite 3.0 Language Models" (2024), <https://github.com/ibm-granite/granite-3.0-language-models>.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Experts::read_any(keys, c, Gating::Used)?;
    let rope = rope::scaled(keys, c, RopeKind::Norm)?;
    let has_rope = keys.opt_bool("rope.scaling.finetuned")?.unwrap_or(true);
    let rope = g.rope(if has_rope { rope } else { rope::still(&rope) });
    let scale = blocks::attention_scale(keys, c)?;
    let options = AttentionOptions::new(scale);
    let residual = keys.opt_positive_or_zero("residual_scale")?.unwrap_or(1.0);
    let embedding = keys.opt_positive_or_zero("embedding_scale")?.unwrap_or(1.0);
    let eps = c.rms_eps / (residual * residual);

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, embedding / residual); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("ffn_norm", x, eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::Silu);
    }
    let logits = blocks::output_with(g, c, x, eps);
    Ok(g.scale(logits, 1.0 / keys.positive("logit_scale")?))
}
