//! Qwen2 and Qwen2.5: a Llama block with biases on q, k and v; dense, or a mixture of experts with one that all rows use.
//!
//! Source: Yang et al., <https://arxiv.org/abs/2407.10671>, section 2.2.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Experts::read_any(keys, c, Gating::All)?;
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::Silu);
    }
    Ok(blocks::output(g, c, x))
}
