//! Gemma 2: norms before and after each half of a layer, soft caps on scores and logits, every other layer with a sliding
//! window.
//!
//! Source: Gemma Team, <https://arxiv.org/abs/2408.00118>, section 2. GGUF's norm weights have Gemma's "1 +" added.

use super::blocks::{self, Windows};
use super::config::Config;
use super::keys::Keys;
use super::rope;
use crate::error::Result;
use crate::graph::{Activation, AttentionOptions, GraphBuilder, RopeKind, Val};

/// Every so many layers one is global.
const PATTERN: usize = 2;
/// Positions in a window, which early files do not say.
const WINDOW: usize = 4096;
/// Layers of the 27B model, whose attention is scaled by another size than the head's.
const N_LAYER_27B: usize = 46;

pub(super) fn build(keys: &Keys<'_>, c: &Config, g: &GraphBuilder<'_>) -> Result<Val> {
    let windows = Windows::read(keys, c, PATTERN)?.or(WINDOW);
    let rope = g.rope(rope::scaled(keys, c, RopeKind::Neox)?);
    let softcap = keys.opt_positive_or_zero("attn_logit_softcapping")?;
    let scale = blocks::gemma_scale(keys, c, N_LAYER_27B)?;
    let options = AttentionOptions { softcap, ..AttentionOptions::new(scale) };

    let mut x = g.embed("token_embd", c.n_vocab, c.n_embd, (c.n_embd as f32).sqrt()); // [T, D]
    for il in 0..c.n_layer {
        let b = &g.block(il);
        let h = b.rms_norm("attn_norm", x, c.rms_eps); // [T, D]
        let [q, k, v] = blocks::qkv(b, c, h);
        let options = AttentionOptions { window: windows.of(il), ..options };
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
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
