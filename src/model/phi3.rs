//! Phi-3 and Phi-4-mini: a Llama block whose q, k, v are one matrix and whose gate and up are another; contexts beyond the first
//! training's turn by other frequencies (LongRoPE).
//!
//! Source: Abdin et al., <https://arxiv.org/abs/2404.14219>, section 2. As in llama.cpp, no layer has a window: files do not say
//! which ones should.

use super::config::Config;
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
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
        x = b.add(x, blocks::fused_gated_ffn(b, c, h, Activation::Silu));
    }
    Ok(blocks::output(g, c, x))
}
