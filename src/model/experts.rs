//! Mixtures of experts in place of a feed-forward layer: their sizes, and the ops of one.

use super::blocks;
use super::config::Config;
use super::keys::{Keys, MAX_WIDTH};
use crate::error::Result;
use crate::graph::{Activation, Block, Gating, Val};

/// More than any model has, and few enough for one workgroup of a GPU to rank them.
const MAX_EXPERTS: usize = 1024;

/// llama.cpp's numbers of gating functions: none given, softmax of all, softmax of those that are used.
const SOFTMAX: &[usize] = &[0, 1, 3];

/// Sizes of a mixture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Experts {
    /// Experts, E.
    n_expert: usize,
    /// Experts that a row uses, U.
    n_used: usize,
    /// Width of an expert, F.
    n_ff: usize,
    /// What their weights are.
    gating: Gating,
    /// Factor on their weights.
    scale: f32,
}

impl Experts {
    /// Those of a file, which has to have some.
    pub(super) fn read(keys: &Keys<'_>, c: &Config) -> Result<Self> {
        let n_expert = keys.count("expert_count", MAX_EXPERTS)?;
        keys.one_of("expert_gating_func", SOFTMAX)?;
        keys.one_of("expert_shared_feed_forward_length", &[0])?;
        let is_normed = keys.opt_bool("expert_weights_norm")?.unwrap_or(true);
        Ok(Self {
            n_expert,
            n_used: keys.count("expert_used_count", n_expert)?,
            n_ff: keys.opt_count_or_zero("expert_feed_forward_length", MAX_WIDTH)?.unwrap_or(c.n_ff),
            gating: if is_normed { Gating::Used } else { Gating::All },
            scale: keys.opt_positive_or_zero("expert_weights_scale")?.unwrap_or(1.0),
        })
    }

    /// The same; `None` for a file without.
    pub(super) fn read_any(keys: &Keys<'_>, c: &Config) -> Result<Option<Self>> {
        match keys.opt_count_or_zero("expert_count", MAX_EXPERTS)? {
            None => Ok(None),
            Some(_) => Self::read(keys, c).map(Some),
        }
    }

    /// h `[T, D]` through the experts that each row chooses: `[T, D]`.
    pub(super) fn ffn(&self, b: &Block<'_>, c: &Config, h: Val, act: Activation) -> Val {
        let logits = b.matmul("ffn_gate_inp", h, self.n_expert); // [T, E]
        let route = b.route(logits, self.n_used, self.gating, self.scale);
        let gate = b.expert_matmul("ffn_gate_exps", h, route, self.n_expert, self.n_ff); // [T, U, F]
        let up = b.expert_matmul("ffn_up_exps", h, route, self.n_expert, self.n_ff); // [T, U, F]
        let down = b.expert_matmul("ffn_down_exps", b.gated(gate, up, act), route, self.n_expert, c.n_embd);
        b.expert_sum(down, route)
    }
}

/// The feed-forward layer, or the mixture of experts in its place.
pub(super) fn ffn(b: &Block<'_>, c: &Config, experts: Option<Experts>, h: Val, act: Activation) -> Val {
    match experts {
        None => blocks::gated_ffn(b, c, h, act),
        Some(experts) => experts.ffn(b, c, h, act),
    }
}
