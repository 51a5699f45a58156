//! Which experts a row uses, and how much each of them weighs.
//!
//! Source: Shazeer et al., <https://arxiv.org/abs/1701.06538>, section 2.1; sigmoids and their bias: DeepSeek-AI,
//! <https://arxiv.org/abs/2412.19437>, section 2.1.2.

use crate::backend::{Candidate, candidates};
use crate::graph::Gating;

/// Writes the numbers of the experts with the largest of `logits` `[E]` to the first half of `out` `[2·U]`, in descending order of
/// logits and of equal ones the lowest first, and to the second half their weights times `scale`. With a `bias` `[E]` their order is
/// that of sigmoids with it added.
pub(crate) fn route(logits: &[f32], bias: Option<&[f32]>, gating: Gating, scale: f32, out: &mut [f32]) {
    let (experts, weights) = out.split_at_mut(out.len() / 2);
    let biased: Option<Vec<f32>> = bias.map(|bias| logits.iter().zip(bias).map(|(&x, b)| sigmoid(x) + b).collect());
    let mut order: Vec<Candidate> = candidates(biased.as_deref().unwrap_or(logits)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let largest = logits[order[0].id() as usize];
    let score = |logit: f32| if gating.is_sigmoid() { sigmoid(logit) } else { (logit - largest).exp() };
    for ((expert, weight), candidate) in experts.iter_mut().zip(&mut *weights).zip(&order) {
        *expert = candidate.id() as f32;
        *weight = score(logits[candidate.id() as usize]);
    }
    let sum: f32 = match gating {
        Gating::Used => weights.iter().sum(),
        Gating::All => logits.iter().map(|&logit| score(logit)).sum(),
        Gating::Sigmoid => 1.0,
        // All of them may be zeros.
        Gating::NormedSigmoid => weights.iter().sum::<f32>().max(f32::MIN_POSITIVE),
    };
    weights.iter_mut().for_each(|weight| *weight *= scale / sum);
}

/// 1 / (1 + e⁻ˣ)
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
