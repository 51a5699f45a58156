//! Mixtures of experts in place of a feed-forward layer: their sizes, and the ops of one.

use super::blocks;
use super::config::Config;
use super::keys::{Keys, MAX_WIDTH};
use crate::error::Result;
use crate::graph::{Activation, Block, Gating, Val};

/// More than any model has, and few enough for one workgroup of a GPU to rank them.
const MAX_EXPERTS: usize = 1024;

/// Sizes of a mixture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Experts {
    /// Experts, E.
    n_expert: usize,
    /// Experts that a row uses, U.
    n_used: usize,
    /// Width of an expert, F.
    n_ff: usize,
    /// Width of the expert that all rows use, where the file says it.
    n_ff_shared: Option<usize>,
    /// What their weights are.
    gating: Gating,
    /// Factor on their weights.
    scale: f32,
    /// Layers that have a feed-forward layer in their place, the first ones.
    n_dense: usize,
}

impl Experts {
    /// Those of a file, which has to have some. Their weights are `gating` where the file does not say.
    pub(super) fn read(keys: &Keys<'_>, c: &Config, gating: Gating) -> Result<Self> {
        let n_expert = keys.count("expert_count", MAX_EXPERTS)?;
        let n_ff = keys.opt_count_or_zero("expert_feed_forward_length", MAX_WIDTH)?.unwrap_or(c.n_ff);
        // Shared experts lie in one matrix, as one that is so many times as wide.
        let n_shared = keys.opt_count_or_zero("expert_shared_count", MAX_EXPERTS)?;
        let n_ff_shared = keys.opt_count_or_zero("expert_shared_feed_forward_length", MAX_WIDTH)?;
        keys.one_of("expert_group_count", &[0, 1])?;
        Ok(Self {
            n_expert,
            n_used: keys.count("expert_used_count", n_expert)?,
            n_ff,
            n_ff_shared: n_ff_shared.or(n_shared.map(|n| n * n_ff)),
            gating: read_gating(keys, gating)?,
            scale: keys.opt_positive_or_zero("expert_weights_scale")?.unwrap_or(1.0),
            n_dense: keys.opt_count_or_zero("leading_dense_block_count", c.n_layer)?.unwrap_or(0),
        })
    }

    /// The same; `None` for a file without.
    pub(super) fn read_any(keys: &Keys<'_>, c: &Config, gating: Gating) -> Result<Option<Self>> {
        match keys.opt_count_or_zero("expert_count", MAX_EXPERTS)? {
            None => Ok(None),
            Some(_) => Self::read(keys, c, gating).map(Some),
        }
    }

    /// x `[T, D]` + h `[T, D]` through the experts that each row chooses, and through the one that all rows use.
    fn add_to(&self, b: &Block<'_>, c: &Config, x: Val, h: Val, act: Activation) -> Val {
        let shared = self.n_ff_shared.or_else(|| b.has("ffn_up_shexp").then_some(c.n_ff));
        let x = shared.map_or(x, |n_ff| add_shared(b, c, n_ff, x, h, act));
        let logits = b.matmul("ffn_gate_inp", h, self.n_expert); // [T, E]
        let route = b.route(logits, self.n_used, self.gating, self.scale);
        let gate = b.expert_matmul("ffn_gate", h, route, self.n_expert, self.n_ff); // [T, U, F]
        let up = b.expert_matmul("ffn_up", h, route, self.n_expert, self.n_ff); // [T, U, F]
        let down = b.expert_matmul("ffn_down", b.gated(gate, up, act), route, self.n_expert, c.n_embd);
        b.add(x, b.expert_sum(down, route))
    }
}

/// The gating of a file, `default` where it has no key. llama.cpp's numbers of functions: none given, softmax of all, sigmoid,
/// softmax of those that are used.
fn read_gating(keys: &Keys<'_>, default: Gating) -> Result<Gating> {
    let function = keys.one_of("expert_gating_func", &[0, 1, 2, 3])?;
    let is_sigmoid = function.filter(|&n| n > 0).map_or(default.is_sigmoid(), |n| n == 2);
    let is_normed = keys.opt_bool("expert_weights_norm")?;
    let is_normed = is_normed.unwrap_or(matches!(default, Gating::Used | Gating::NormedSigmoid));
    Ok(match (is_sigmoid, is_normed || function == Some(3)) {
        (true, true) => Gating::NormedSigmoid,
        (true, false) => Gating::Sigmoid,
        (false, true) => Gating::Used,
        (false, false) => Gating::All,
    })
}

/// x + h through the expert that all rows use, of width `n_ff`; times a gate of its own, where it has one (Qwen2 MoE).
fn add_shared(b: &Block<'_>, c: &Config, n_ff: usize, x: Val, h: Val, act: Activation) -> Val {
    let gate = b.matmul("ffn_gate_shexp", h, n_ff); // [T, F]
    let up = b.matmul("ffn_up_shexp", h, n_ff); // [T, F]
    let y = b.matmul("ffn_down_shexp", b.gated(gate, up, act), c.n_embd); // [T, D]
    let gate = "ffn_gate_inp_shexp";
    b.add(x, if b.has(gate) { b.row_gate(y, b.matmul(gate, h, 1)) } else { y })
}

/// x + h through the feed-forward layer of layer `il`, or through the mixture of experts in its place.
pub(super) fn add_ffn(b: &Block<'_>, c: &Config, experts: Option<Experts>, x: Val, h: Val, act: Activation) -> Val {
    match experts.filter(|experts| b.layer() >= experts.n_dense) {
        None => b.add(x, blocks::gated_ffn(b, c, h, act)),
        Some(experts) => experts.add_to(b, c, x, h, act),
    }
}
