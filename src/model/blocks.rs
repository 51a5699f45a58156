//! What several architectures share: q, k and v, sliding windows, feed-forward layers, the output.

use std::ops::Range;

use super::config::Config;
use super::keys::Keys;
use crate::error::Result;
use crate::graph::{Activation, Block, GraphBuilder, Val};

/// q `[T, H, Dh]`, k and v `[T, Hkv, Dh]` out of three matrices, or out of one that holds the rows of all three.
pub(super) fn qkv(b: &Block<'_>, c: &Config, h: Val) -> [Val; 3] {
    let (n_q, n_kv) = (c.n_head * c.head_dim, c.n_head_kv * c.head_dim);
    let n = n_q + 2 * n_kv;
    let is_fused = b.has("attn_qkv");
    let matmul = |name: &str, rows: Range<usize>, n_head: usize| {
        let x = if is_fused { b.matmul_rows("attn_qkv", name, h, n, rows) } else { b.matmul(name, h, rows.len()) };
        x.heads(n_head)
    };
    [
        matmul("attn_q", 0..n_q, c.n_head),
        matmul("attn_k", n_q..n_q + n_kv, c.n_head_kv),
        matmul("attn_v", n_q + n_kv..n, c.n_head_kv),
    ]
}

/// 1 / √Dh, which scores of attention are scaled by where nothing else is said.
pub(super) fn head_scale(c: &Config) -> f32 {
    1.0 / (c.head_dim as f32).sqrt()
}

/// What scores of attention are scaled by, if the file says it.
pub(super) fn attention_scale(keys: &Keys<'_>, c: &Config) -> Result<f32> {
    scale_or(keys, head_scale(c))
}

fn scale_or(keys: &Keys<'_>, usual: f32) -> Result<f32> {
    Ok(keys.opt_positive_or_zero("attention.scale")?.unwrap_or(usual))
}

/// The same for Gemma 2 and 3, of which the 27B models, of so many layers, scale by D / H, which files of llama.cpp's do not say.
pub(super) fn gemma_scale(keys: &Keys<'_>, c: &Config, n_layer_27b: usize) -> Result<f32> {
    let usual = if c.n_layer == n_layer_27b { 1.0 / ((c.n_embd / c.n_head) as f32).sqrt() } else { head_scale(c) };
    scale_or(keys, usual)
}

/// Which layers see no more than the last positions, and how many.
pub(super) struct Windows {
    len: Option<usize>,
    layers: Vec<bool>,
}

impl Windows {
    /// `attention.sliding_window`, in the layers that `attention.sliding_window_pattern` says: each by itself, or all but every
    /// n-th. Without the key, n is `pattern`.
    pub(super) fn read(keys: &Keys<'_>, c: &Config, pattern: usize) -> Result<Self> {
        let len = keys.opt_count_or_zero("attention.sliding_window", i32::MAX as usize)?;
        let layers = keys.pattern("attention.sliding_window_pattern", pattern, c.n_layer)?;
        Ok(Self { len, layers })
    }

    /// The same, of `len` positions where the file has none.
    pub(super) fn or(self, len: usize) -> Self {
        Self { len: self.len.or(Some(len)), ..self }
    }

    /// The window of layer `il`.
    pub(super) fn of(&self, il: usize) -> Option<usize> {
        self.len.filter(|_| self.layers[il])
    }
}

/// act(h · Wgateᵀ) · (h · Wupᵀ), projected down: `[T, D]`.
pub(super) fn gated_ffn(b: &Block<'_>, c: &Config, h: Val, act: Activation) -> Val {
    let gate = b.matmul("ffn_gate", h, c.n_ff); // [T, F]
    let up = b.matmul("ffn_up", h, c.n_ff); // [T, F]
    b.matmul("ffn_down", b.gated(gate, up, act), c.n_embd)
}

/// The same, where the rows of gate and up are one matrix, `ffn_up`.
pub(super) fn fused_gated_ffn(b: &Block<'_>, c: &Config, h: Val, act: Activation) -> Val {
    let gate = b.matmul_rows("ffn_up", "ffn_gate", h, 2 * c.n_ff, 0..c.n_ff); // [T, F]
    let up = b.matmul_rows("ffn_up", "ffn_up", h, 2 * c.n_ff, c.n_ff..2 * c.n_ff); // [T, F]
    b.matmul("ffn_down", b.gated(gate, up, act), c.n_embd)
}

/// Logits `[N, V]` of the rows that are wanted: only these go through the last norm and the output matrix, which is the
/// embedding table where the file has none of its own.
pub(super) fn output(g: &GraphBuilder<'_>, c: &Config, x: Val) -> Val {
    output_with(g, c, x, c.rms_eps)
}

/// The same, with what the norm adds to the mean of squares.
pub(super) fn output_with(g: &GraphBuilder<'_>, c: &Config, x: Val, eps: f32) -> Val {
    let h = g.rms_norm("output_norm", g.output_rows(x), eps); // [N, D]
    if g.has("output") { g.matmul("output", h, c.n_vocab) } else { g.matmul_tied("output", h, c.n_vocab, "token_embd") }
}
