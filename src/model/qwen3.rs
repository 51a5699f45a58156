//! Qwen3: a Llama block with a norm on each q and k head before they turn; dense, or a mixture of experts.
//!
//! Source: Yang et al., <https://arxiv.org/abs/2505.09388>, section 2.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Experts::read_any(keys, c, Gating::Used)?;
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let q = b.rope(b.rms_norm("attn_q_norm", q, c.rms_eps), rope);
        let k = b.rope(b.rms_norm("attn_k_norm", k, c.rms_eps), rope);
        x = b.add(x, b.matmul("attn_output", b.attention(q, k, v, options), c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::Silu);
    }
    Ok(blocks::output(g, c, x))
}
