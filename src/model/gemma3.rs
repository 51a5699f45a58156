//! Gemma 3: norms before and after each half of a layer and on each q and k head; five layers with a sliding window,
//! which have a rotary embedding of their own, then one that sees everything.
//!
//! Source: Gemma Team, <https://arxiv.org/abs/2503.19786>, section 2. GGUF's norm weights have Gemma's "1 +" added.

use super::blocks::{self, Windows};
use super::config::Config;
use super::keys::Keys;
use super::rope;
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

/// Every so many layers one is global.
const PATTERN: usize = 6;
/// Layers of the 27B model, whose attention is scaled by another size than the head's.
const N_LAYER_27B: usize = 62;

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let windows = Windows::read(keys, c, PATTERN)?;
    let local_base = keys.opt_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local_rope = g.rope(rope::plain(keys, c, RopeKind::Neox, local_base)?);
    let global_rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let scale = blocks::gemma_scale(keys, c, N_LAYER_27B)?;
    let options = AttentionOptions::new(scale);

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, (c.n_embd as f32).sqrt()); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let window = windows.of(il);
        let rope = if window.is_some() { local_rope } else { global_rope };
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let q = b.rope(b.rms_norm("attn_q_norm", q, c.rms_eps), rope);
        let k = b.rope(b.rms_norm("attn_k_norm", k, c.rms_eps), rope);
        let a = b.attention(q, k, v, AttentionOptions { window, ..options });
        let a = b.matmul("attn_output", a, c.n_embd);
        x = b.add(x, b.rms_norm("post_attention_norm", a, c.rms_eps));

        let h = b.rms_norm("ffn_norm", x, c.rms_eps);
        let h = blocks::gated_ffn(b, c, h, Activation::Gelu);
        x = b.add(x, b.rms_norm("post_ffw_norm", h, c.rms_eps));
    }
    let logits = blocks::output(g, c, x);
    Ok(match keys.opt_positive_or_zero("final_logit_softcapping")? {
        Some(cap) => g.softcap(logits, cap),
        None => logits,
    })
}
