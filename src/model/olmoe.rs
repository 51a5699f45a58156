//! OLMoE: a Llama block with norms on all of q and all of k, and a mixture of experts.
//!
//! Source: Muennighoff et al., <https://arxiv.org/abs/2409.02060>, section 2.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Some(Experts::read(keys, c, Gating::All)?);
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let q = b.rms_norm("attn_q_norm", q.heads(1), c.rms_eps).heads(c.n_head); // [T, H, Dh]
        let k = b.rms_norm("attn_k_norm", k.heads(1), c.rms_eps).heads(c.n_head_kv); // [T, Hkv, Dh]
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::Silu);
    }
    Ok(blocks::output(g, c, x))
}
