//! OLMo 2 and 3: norms on the results of both halves of a layer in place of their inputs, and on all of q and all of k; in
//! OLMo 3 three of four layers have a sliding window.
//!
//! Source: OLMo Team, <https://arxiv.org/abs/2501.00656>, section 2.

use super::blocks::{self, Windows};
use super::config::Config;
use super::keys::Keys;
use super::rope;
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

/// Every so many layers one is global, if any has a window.
const PATTERN: usize = 4;

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let windows = Windows::read(keys, c, PATTERN)?;
    // A window is never longer than what the model was trained on.
    let local_rope = g.rope(rope::plain(keys, c, RopeKind::Neox, rope::base(keys)?)?);
    let global_rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let options = AttentionOptions::new(blocks::head_scale(c));

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, 1.0); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let window = windows.of(il);
        let rope = if window.is_some() { local_rope } else { global_rope };
        let [q, k, v] = blocks::qkv(b, c, x);
        let q = b.rms_norm("attn_q_norm", q.heads(1), c.rms_eps).heads(c.n_head); // [T, H, Dh]
        let k = b.rms_norm("attn_k_norm", k.heads(1), c.rms_eps).heads(c.n_head_kv); // [T, Hkv, Dh]
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, AttentionOptions { window, ..options });
        let a = b.matmul("attn_output", a, c.n_embd);
        x = b.add(x, b.rms_norm("post_attention_norm", a, c.rms_eps));

        let h = blocks::gated_ffn(b, c, x, Activation::Silu);
        x = b.add(x, b.rms_norm("post_ffw_norm", h, c.rms_eps));
    }
    Ok(blocks::output(g, c, x))
}
