//! GLM-4.5: a Llama block with biases on q, k and v, in the larger model a norm on each q and k head, and experts that are weighed by
//! sigmoids, one of which all rows use; the first layers are dense. GGUF calls the norm before the experts `post_attention_norm`.
//!
//! Source: GLM-4.5 Team, <https://arxiv.org/abs/2508.06471>, section 2.1. The last layers, which guess a token more, are left out.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Some(Experts::read(keys, c, Gating::Sigmoid)?);
    let n_guess = keys.opt_count_or_zero("nextn_predict_layers", c.n_layer - 1)?.unwrap_or(0);
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer - n_guess {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [mut q, mut k, v] = blocks::qkv(b, c, h);
        if b.has("attn_q_norm") {
            q = b.rms_norm("attn_q_norm", q, c.rms_eps);
            k = b.rms_norm("attn_k_norm", k, c.rms_eps);
        }
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("post_attention_norm", x, c.rms_eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::Silu);
    }
    Ok(blocks::output(g, c, x))
}
