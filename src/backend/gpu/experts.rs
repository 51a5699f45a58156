//! The nodes and the calls of a mixture of experts: routing, products with the experts that rows use, their sum.
//!
//! A slot is one of the uses that a row has for an expert. Which expert that is is known on the device only, and nobody asks: a
//! step with few rows has a grid over slots, each of which finds its expert; one with many sorts its slots by expert first, in
//! tiles of as many as a workgroup takes, with room for as many tiles as there can be. Then kernels for many rows take these in
//! place of neighbouring rows, so that a matrix is read once a tile. Workgroups without a tile end at once.

use super::fold::Fold;
use super::fuse::Node;
use super::kernels::{Bind, Call, Constants, Grid, Lower, Mode, Modules, Shape, activation};
use super::matmul::{self, FEW};
use super::memory::{GROUP, MatrixRef};
use super::pace;
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

/// Tiles of at most `slots_each` slots that `n_slots` can make: most if as many experts as can be have a slot beyond full tiles.
pub(crate) fn n_tiles(n_slots: u32, slots_each: u32, n_expert: u32) -> u32 {
    let n_used = n_slots.min(n_expert);
    n_used + (n_slots - n_used) / slots_each
}

/// Rows up to which each slot is multiplied by itself: as long as experts have two on average, a tile of them is mostly padding.
/// Always fewer than the least that a prompt is cut into.
fn most_by_slot(n_used: usize, n_expert: usize) -> u32 {
    FEW.max(2 * n_expert as u32 / n_used as u32).min(pace::ROWS as u32 - 1)
}

impl Lower<'_> {
    /// Bytes of the sorted slots of the mixture that needs most.
    pub(crate) fn sorted_bytes(&self) -> usize {
        let of = |node: &Node| match node {
            Node::ExpertMatMul(ExpertMatMul { n_expert, n_used, .. }) => {
                4 * (3 * self.n_tiles(*n_used, *n_expert) as usize + self.limits.max_rows * n_used)
            }
            _ => 0,
        };
        self.fused.nodes.iter().map(of).max().unwrap_or(0)
    }

    /// Tiles that a step of this program can have.
    fn n_tiles(&self, n_used: usize, n_expert: usize) -> u32 {
        let slots_each = matmul::experts(self.caps).tile[1] as u32;
        n_tiles((self.limits.max_rows * n_used) as u32, slots_each, n_expert as u32)
    }

    /// Rows of the steps whose slots are sorted, if there are such steps.
    fn sorted_rows(&self, mode: Mode, n_used: usize, n_expert: usize) -> Option<[u32; 2]> {
        let most = most_by_slot(n_used, n_expert);
        (mode == Mode::Many && self.limits.max_rows > most as usize).then_some([most + 1, u32::MAX])
    }

    /// Rows up to which a step has other kernels than a prompt.
    pub(crate) fn few_rows(&self) -> usize {
        let of = |node: &Node| match node {
            Node::ExpertMatMul(ExpertMatMul { n_expert, n_used, .. }) => most_by_slot(*n_used, *n_expert),
            _ => FEW,
        };
        self.fused.nodes.iter().map(of).max().unwrap_or(FEW) as usize
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
        if let Some(rows) = self.sorted_rows(mode, n_used, n_expert) {
            let slots_each = matmul::experts(self.caps).tile[1];
            let constants = vec![
                ("E", n_expert.into()),
                ("USED", n_used.into()),
                ("TILE", slots_each.into()),
                ("TILES", self.n_tiles(n_used, n_expert).into()),
                ("WG", tune::SORT.into()),
            ];
            calls.push(Call {
                key: KernelKey { kernel: "expert_sort", modules: vec![], constants },
                binds: vec![(0, Bind::Tensor(y)), (1, Bind::Sorted), (4, Bind::Step)],
                matrix: None,
                grid: Grid::Some { total: 1, rows_each: u32::MAX, rows },
            });
        }
    }

    /// The calls of a product with experts, for each part of its matrix.
    pub(super) fn expert_matmul(&self, node: &ExpertMatMul, mode: Mode, calls: &mut Vec<Call>) {
        for part in 0..self.weights.matrix(&node.matrix).parts.len() {
            calls.push(self.expert_matvec(node, part, mode));
            let sorted_rows = self.sorted_rows(mode, node.n_used, node.n_expert);
            calls.extend(sorted_rows.map(|rows| self.expert_tiles(node, part, rows)));
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
        let rows = if mode == Mode::One { [1, 1] } else { [1, most_by_slot(node.n_used, node.n_expert)] };
        call.grid = Grid::Slots { total, n_used: node.n_used as u32, n_expert: node.n_expert as u32, rows };
        call
    }

    /// For many rows: tiles of the sorted slots.
    fn expert_tiles(&self, node: &ExpertMatMul, part: usize, rows: [u32; 2]) -> Call {
        let (n_used, n_expert) = (node.n_used, node.n_expert);
        let many = matmul::experts(self.caps);
        let mut call = self.expert_call(many.kernel, node, part);
        call.key.modules.extend(self.many_modules(&many, "experts"));
        call.key.constants.push(("TILES", self.n_tiles(n_used, n_expert).into()));
        call.binds.extend([(2, Bind::Sorted), (5, Bind::Shape(self.shape(&node.matrix, part, node.y)))]);
        let [tile_m, tile_t] = many.tile;
        call.key.constants.extend(many.constants);
        call.grid = Grid::Tiles {
            x: (node.matrix.n_rows() / n_expert).div_ceil(tile_m) as u32,
            slots_each: tile_t as u32,
            n_used: n_used as u32,
            n_expert: n_expert as u32,
            rows,
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// However slots are spread over experts, there is room for their tiles, and for no more than the worst case takes.
    #[test]
    fn there_is_room_for_every_tile() {
        for slots_each in [1, 3, 6] {
            for n_slots in 1..20 {
                // The most tiles of any way to give the slots to three experts.
                let tiles = |counts: [u32; 3]| counts.iter().map(|count| count.div_ceil(slots_each)).sum::<u32>();
                let counts = |i, j| [i, j, n_slots - i - j];
                let all = (0..=n_slots).flat_map(|i| (0..=n_slots - i).map(move |j| (i, j)));
                let most = all.map(|(i, j)| tiles(counts(i, j))).max();
                assert_eq!(Some(n_tiles(n_slots, slots_each, 3)), most, "{n_slots} slots by {slots_each}");
            }
        }
    }
}
