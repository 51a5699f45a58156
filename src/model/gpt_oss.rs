//! gpt-oss: a mixture of experts with biases everywhere and a bounded activation; every other layer has a sliding window, and each
//! head a logit that takes part in softmax and weighs no value.
//!
//! Source: OpenAI, <https://arxiv.org/abs/2508.10925>, section 2. GGUF calls the norm before the experts `post_attention_norm`.

use super::blocks::{self, Windows};
use super::config::Config;
use super::experts::{self, Experts};
use super::keys::Keys;
use super::rope;
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, Gating, GraphBuilder, RopeKind, Val};

/// Every so many layers one is global.
const PATTERN: usize = 2;

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let windows = Windows::read(keys, c, PATTERN)?;
    let experts = Some(Experts::read(keys, c, Gating::Used)?);
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions { sinks: Some("attn_sinks"), ..AttentionOptions::new(blocks::head_scale(c)) };

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let options = AttentionOptions { window: windows.of(il), ..options };
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        x = b.add(x, b.matmul("attn_output", a, c.n_embd));

        let h = b.rms_norm("post_attention_norm", x, c.rms_eps);
        x = experts::add_ffn(b, c, experts, x, h, Activation::SwigluOai);
    }
    Ok(blocks::output(g, c, x))
}
