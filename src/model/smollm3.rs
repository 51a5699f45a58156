//! SmolLM3: a Llama block; every fourth layer has no rotary embedding.
//!
//! Source: <https://huggingface.co/blog/smollm3>; layers without positions: Yang et al., <https://arxiv.org/abs/2501.18795>.

use super::config::Config;
use super::keys::Keys;
use super::{blocks, rope};
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

/// Every so many layers one has no positions.
const PATTERN: usize = 4;

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let rope = rope::scaled(keys, c, RopeKind::Norm)?;
    let (still, rope) = (g.rope(rope::still(&rope)), g.rope(rope));
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let rope = if (il + 1).is_multiple_of(PATTERN) { still } else { rope };
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        x = b.add(x, blocks::gated_ffn(b, c, h, Activation::Silu));
    }
    Ok(blocks::output(g, c, x))
}
