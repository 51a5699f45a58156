//! Llama, and what is built like it (SmolLM2, Mistral, TinyLlama, …): RMSNorm, rotary grouped-query attention, SwiGLU.
//!
//! Source: Touvron et al., <https://arxiv.org/abs/2302.13971>, section 2.2; Grattafiori et al.,
//! <https://arxiv.org/abs/2407.21783>, section 3.2.

use super::blocks;
use super::config::Config;
use super::keys::Keys;
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    // Mixtures of experts go by the same name and have other tensors.
    keys.absent_or_zero("expert_count")?;
    let mut rope = blocks::rope(keys, c, RopeKind::Norm, blocks::rope_base(keys)?, blocks::rope_factor(keys)?)?;
    blocks::apply_rope_freqs(keys, &mut rope)?;
    let rope = g.rope(rope);
    let scale = keys.opt_positive_or_zero("attention.scale")?.unwrap_or(1.0 / (c.head_dim as f32).sqrt());
    let options = AttentionOptions { scale, window: None, softcap: None, sinks: None };
    let (n_q, n_kv) = (c.n_head * c.head_dim, c.n_head_kv * c.head_dim);

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let q = b.rope(b.matmul("attn_q", h, n_q).heads(c.n_head), rope); // [T, H, Dh]
        let k = b.rope(b.matmul("attn_k", h, n_kv).heads(c.n_head_kv), rope); // [T, Hkv, Dh]
        let v = b.matmul("attn_v", h, n_kv).heads(c.n_head_kv); // [T, Hkv, Dh]
        x = b.add(x, b.matmul("attn_output", b.attention(q, k, v, options), c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = b.add(x, blocks::gated_ffn(b, c, h, Activation::Silu));
    }
    Ok(blocks::output(g, c, x))
}
