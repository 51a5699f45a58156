//! The nodes and the calls of a mixture of experts: routing, products with the experts that rows use, their sum.
//!
//! Which experts a row uses is known on the device only, and nobody asks: a step with few rows has a grid over slots, each of
//! which finds its expert; one with many sorts its slots by expert first, in tiles of as many as a workgroup takes, with room for
//! as many tiles as there can be. Workgroups without a tile end at once.

use super::fold::Fold;
use super::fuse::Node;
use super::kernels::{Bind, Call, Constants, Grid, Lower, Mode, Modules, Shape, activation};
use super::matmul::FEW;
use super::memory::{GROUP, MatrixRef};
use super::shader::KernelKey;
use super::tune;
use crate::graph::{Activation, Gating, WeightRef};

/// A choice of experts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub x: usize,
    pub bias: Option<WeightRef>,
    pub n_used: usize,
    pub gating: Gating,
    pub scale: f32,
    pub y: usize,
}

/// A product with experts, or one with gate and up by turns and their activation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExpertMatMul {
    pub x: usize,
    pub route: usize,
    /// `[E·M, K]`
    pub matrix: MatrixRef,
    pub bias: Vec<WeightRef>,
    pub act: Option<Activation>,
    pub n_expert: usize,
    pub n_used: usize,
    pub y: usize,
}

/// The sum of what experts gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ExpertSum {
    pub x: usize,
    pub route: usize,
    pub n_used: usize,
    pub residual: Option<usize>,
    pub y: usize,
}

/// Slots of a tile: as many as a workgroup of `expert_matmul` takes.
pub(crate) const TILE: usize = 32;

/// Tiles that `n_rows` rows can have.
pub(crate) fn n_tiles(n_rows: usize, n_used: usize, n_expert: usize) -> usize {
    let slots = n_rows * n_used;
    slots / TILE + slots.min(n_expert)
}

impl Lower<'_> {
    /// Bytes of the sorted slots of the mixture that needs most.
    pub(crate) fn sorted_bytes(&self) -> usize {
        let of = |node: &Node| match node {
            Node::ExpertMatMul(ExpertMatMul { n_expert, n_used, .. }) => {
                4 * (3 * self.n_tiles(*n_used, *n_expert) + self.limits.max_rows * n_used)
            }
            _ => 0,
        };
        self.fused.nodes.iter().map(of).max().unwrap_or(0)
    }

    /// Tiles that a step of this program can have.
    fn n_tiles(&self, n_used: usize, n_expert: usize) -> usize {
        n_tiles(self.limits.max_rows, n_used, n_expert)
    }

    /// The calls that choose experts, and sort the slots of a step of many rows.
    pub(super) fn route(&self, node: &Route, mode: Mode, calls: &mut Vec<Call>) {
        let &Route { x, ref bias, n_used, gating, scale, y } = node;
        let n_expert = self.width(x);
        let constants = vec![
            ("E", n_expert.into()),
            ("USED", n_used.into()),
            ("ALL", u32::from(gating == Gating::All).into()),
            ("NORMED", u32::from(gating != Gating::Sigmoid).into()),
            ("FACTOR", scale.into()),
            ("WG", tune::ROUTE.into()),
        ];
        let score = match bias {
            _ if !gating.is_sigmoid() => "softmax",
            None => "sigmoid",
            Some(_) => "biased",
        };
        let mut binds = vec![(0, Bind::Tensor(x)), (1, Bind::Tensor(y))];
        binds.extend(bias.iter().map(|bias| (2, Bind::Vector(vec![bias.clone()]))));
        calls.push(Call {
            key: KernelKey { kernel: "route", modules: vec![("score", score)], constants },
            binds,
            matrix: None,
            grid: Grid::PerRows { x: 1, rows_each: 1 },
        });
        if mode == Mode::Many && self.limits.max_rows > FEW as usize {
            let constants = vec![
                ("E", n_expert.into()),
                ("USED", n_used.into()),
                ("TILE", TILE.into()),
                ("TILES", self.n_tiles(n_used, n_expert).into()),
                ("WG", tune::SORT.into()),
            ];
            calls.push(Call {
                key: KernelKey { kernel: "expert_sort", modules: vec![], constants },
                binds: vec![(0, Bind::Tensor(y)), (1, Bind::Sorted), (4, Bind::Step)],
                matrix: None,
                grid: Grid::Some { total: 1, rows_each: u32::MAX, rows: [FEW + 1, u32::MAX] },
            });
        }
    }

    /// The calls of a product with experts, for each part of its matrix.
    pub(super) fn expert_matmul(&self, node: &ExpertMatMul, mode: Mode, calls: &mut Vec<Call>) {
        for part in 0..self.weights.matrix(&node.matrix).parts.len() {
            calls.push(self.expert_matvec(node, part, mode));
            if mode == Mode::Many && self.limits.max_rows > FEW as usize {
                calls.push(self.expert_tiles(node, part));
            }
        }
    }

    /// For few rows: each slot by itself.
    fn expert_matvec(&self, node: &ExpertMatMul, part: usize, mode: Mode) -> Call {
        let m = node.matrix.n_rows() / node.n_expert;
        let tune::MatVec { wg, lanes, .. } = tune::matvec(self.caps, m, node.matrix.row_len() / GROUP, false);
        let mut call = self.expert_call("expert_matvec", node, part);
        let mut shape = self.shape(&node.matrix, part, node.y);
        let norm = if mode == Mode::One { self.fused.gone_norm(node.x) } else { None };
        self.factor(norm, &mut call.key.modules, &mut call.key.constants, &mut call.binds, &mut shape);
        call.binds.push((5, Bind::Shape(shape)));
        call.key.modules.extend(self.matvec_modules(lanes, true));
        call.key.constants.extend([("WG", wg.into()), ("LANES", lanes.into()), ("USED", node.n_used.into())]);
        call.binds.push((2, Bind::Tensor(node.route)));
        let total = m.div_ceil(2 * wg / lanes) as u32;
        let rows = if mode == Mode::One { [1, 1] } else { [1, FEW] };
        call.grid = Grid::Slots { total, n_used: node.n_used as u32, n_expert: node.n_expert as u32, rows };
        call
    }

    /// For many rows: tiles of the sorted slots.
    fn expert_tiles(&self, node: &ExpertMatMul, part: usize) -> Call {
        let (n_used, n_expert) = (node.n_used, node.n_expert);
        let mut call = self.expert_call("expert_matmul", node, part);
        call.key.constants.push(("TILES", self.n_tiles(n_used, n_expert).into()));
        call.binds.extend([(2, Bind::Sorted), (5, Bind::Shape(self.shape(&node.matrix, part, node.y)))]);
        let x = (node.matrix.n_rows() / n_expert).div_ceil(64) as u32;
        call.grid = Grid::Tiles { x, n_used: n_used as u32, n_expert: n_expert as u32, rows: [FEW + 1, u32::MAX] };
        call
    }

    /// What both have in common: all but the grid and the shape.
    fn expert_call(&self, kernel: &'static str, node: &ExpertMatMul, part: usize) -> Call {
        let matrix = self.weights.matrix(&node.matrix);
        let m = node.matrix.n_rows() / node.n_expert;
        let each = node.n_used * node.matrix.row_len() / self.width(node.x);
        let mut constants = vec![("M", m.into()), ("EACH", each.into())];
        let mut modules = self.quant_modules(matrix.format);
        let mut binds = vec![(0, Bind::Tensor(node.x)), (1, Bind::Tensor(node.y))];
        match node.act {
            None => modules.push(("expert_epilogue", "store")),
            Some(act) => modules.extend([("act", activation(act)), ("expert_epilogue", "gated")]),
        }
        let bias = match (node.bias.is_empty(), node.act) {
            (true, _) => "none",
            (false, None) => "vector",
            (false, Some(_)) => "pairs",
        };
        modules.push(("expert_bias", bias));
        if !node.bias.is_empty() {
            binds.push((3, Bind::Vector(node.bias.clone())));
            constants.push(("N_EXPERT", node.n_expert.into()));
        }
        Call {
            key: KernelKey { kernel, modules, constants },
            binds,
            matrix: Some((node.matrix.clone(), part)),
            grid: Grid::Linear(0),
        }
    }

    /// The call that adds up what experts gave, and makes the sums of the norm that comes next.
    pub(super) fn expert_sum(&self, node: &ExpertSum, fold: Option<&Fold>) -> Call {
        let ExpertSum { x, route, n_used, residual, y } = *node;
        let width = self.width(y);
        let wg = tune::ELEMENTWISE;
        let mut constants: Constants = vec![("D", width.into()), ("USED", n_used.into()), ("WG", wg.into())];
        let mut modules: Modules = vec![("residual", if residual.is_some() { "add" } else { "none" })];
        let mut binds = vec![(0, Bind::Tensor(x)), (1, Bind::Tensor(route)), (2, Bind::Tensor(y))];
        binds.extend(residual.map(|r| (3, Bind::Tensor(r))));
        self.fold_into(fold, &mut modules, &mut constants, &mut binds);
        // The sums of a fold begin where its shape says: at the first.
        binds.extend(fold.map(|_| (5, Bind::Shape(Shape::default()))));
        let key = KernelKey { kernel: "expert_sum", modules, constants };
        Call { key, binds, matrix: None, grid: Grid::PerRows { x: width.div_ceil(2 * wg) as u32, rows_each: 1 } }
    }
}
