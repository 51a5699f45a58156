//! Gemma (1): a Llama block with GELU, embeddings that are scaled by √D, and the embedding table as output matrix.
//!
//! Source: Gemma Team, <https://arxiv.org/abs/2403.08295>, section 2. GGUF's norm weights have Gemma's "1 +" added.

use super::config::Config;
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, (c.n_embd as f32).sqrt()); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = b.add(x, blocks::gated_ffn(b, c, h, Activation::Gelu));
    }
    Ok(blocks::output(g, c, x))
}
