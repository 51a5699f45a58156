//! Llama, and what is built like it (SmolLM2, Mistral, TinyLlama, …): RMSNorm, rotary grouped-query attention, SwiGLU; and Mixtral,
//! which has the same name in files and a mixture of experts in place of SwiGLU.
//!
//! Source: Touvron et al., <https://arxiv.org/abs/2302.13971>, section 2.2; Grattafiori et al.,
//! <https://arxiv.org/abs/2407.21783>, section 3.2; Jiang et al., <https://arxiv.org/abs/2401.04088>, section 2.

use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let experts = Experts::read_any(keys, c, Gating::Used)?;
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Norm)?);
    let scale = blocks::attention_scale(keys, c)?;
    let options = AttentionOptions::new(scale);

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
