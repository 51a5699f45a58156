//! Attention of one head of one row over the cached positions that the row may see.
//!
//! Source: Vaswani et al., <https://arxiv.org/abs/1706.03762>, equation 1; heads share keys and values as in Ainslie
//! et al., <https://arxiv.org/abs/2305.13245>.

use std::ops::Range;

use super::dot::dot;
use super::kv::KvCache;
use crate::backend::PAGE_LEN;
use crate::backend::cpu::multiversion::multiversion;
use crate::graph::AttentionSpec;

/// What a row may attend to: the positions of its sequence up to its own.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) kv: &'a KvCache,
    /// The pages of the row's sequence.
    pub(crate) pages: &'a [u32],
    /// The row's position.
    pub(crate) pos: u32,
    /// A logit beside the scores, which weighs no value.
    pub(crate) sink: Option<f32>,
}

impl Context<'_> {
    /// The positions that a window leaves.
    #[inline(always)]
    fn visible(&self, window: Option<usize>) -> Range<usize> {
        let end = self.pos as usize + 1;
        window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

multiversion! {
    /// out `[Dh]` = softmax(q · Kᵀ · scale) · V for the query head `head` of a row.
    ///
    /// q `[Dh]`; scratch holds a score for each visible position.
    pub(crate) fn attention(
        spec: &AttentionSpec,
        head: usize,
        q: &[f32],
        context: Context<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let Range { start, end } = context.visible(spec.window);
        let head_kv = head / (spec.n_head / spec.n_head_kv);
        let dh = spec.head_dim;
        let scores = &mut scratch[..end - start];
        let page_of = |pos: usize| context.kv.head(spec.layer, context.pages[pos / PAGE_LEN], head_kv);

        // 1. Scores.
        let mut max = context.sink.unwrap_or(f32::NEG_INFINITY);
        for (score, pos) in scores.iter_mut().zip(start..end) {
            let (keys, _) = page_of(pos);
            *score = dot(q, &keys[pos % PAGE_LEN * dh..][..dh]) * spec.scale;
            if let Some(cap) = spec.softcap {
                *score = cap * (*score / cap).tanh();
            }
            max = max.max(*score);
        }
        // 2. Their exponentials; the largest is taken off so that none overflows.
        let mut sum = context.sink.map_or(0.0, |sink| (sink - max).exp());
        for score in scores.iter_mut() {
            *score = (*score - max).exp();
            sum += *score;
        }
        // 3. The mean of the values, weighted by these.
        out.fill(0.0);
        for (score, pos) in scores.iter().zip(start..end) {
            let (_, values) = page_of(pos);
            for (out, v) in out.iter_mut().zip(&values[pos % PAGE_LEN * dh..][..dh]) {
                *out += score * v;
            }
        }
        for out in out {
            *out /= sum;
        }
    }
}
