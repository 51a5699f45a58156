//! Which experts a row uses, and how much each of them weighs.
//!
//! Source: Shazeer et al., <https://arxiv.org/abs/1701.06538>, section 2.1.

use crate::backend::{Candidate, candidates};
use crate::graph::Gating;

/// Writes the numbers of the experts with the largest of `logits` `[E]` to the first half of `out` `[2·U]`, in descending order of
/// logits and of equal ones the lowest first, and to the second half their weights times `scale`.
pub(crate) fn route(logits: &[f32], gating: Gating, scale: f32, out: &mut [f32]) {
    let (experts, weights) = out.split_at_mut(out.len() / 2);
    let mut order: Vec<Candidate> = candidates(logits).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let logit = |candidate: &Candidate| logits[candidate.id() as usize];
    let largest = logit(&order[0]);
    for ((expert, weight), candidate) in experts.iter_mut().zip(&mut *weights).zip(&order) {
        *expert = candidate.id() as f32;
        *weight = (logit(candidate) - largest).exp();
    }
    let sum: f32 = match gating {
        Gating::Used => weights.iter().sum(),
        Gating::All => logits.iter().map(|logit| (logit - largest).exp()).sum(),
    };
    weights.iter_mut().for_each(|weight| *weight *= scale / sum);
}
