//! Calls for steps of one row: matvecs, and norms folded into them.
//!
//! A step of one row is what decoding is made of. Its list of calls covers body and head at once, since with one row there
//! are no rows to pick; norms run in their neighbours (see `fold`); two matrices of different formats over the same
//! input are one dispatch. A llama layer takes five dispatches, six where attention is split; a gemma3 layer two more.

use super::fold::Fold;
use super::fuse::{Epilogue, Node};
use super::kernels::{Bind, Call, Constants, Grid, Lower, Mode, Modules, Shape};
use super::matmul;
use super::memory::{GROUP, MatrixRef};
use super::shader::KernelKey;
use super::tune;
use crate::graph::{Rows, WeightRef};

/// A matmul of one row, with what is folded into it.
#[derive(Clone, Copy)]
pub(super) struct MatVec<'a> {
    pub x: usize,
    pub matrix: &'a MatrixRef,
    pub bias: &'a [WeightRef],
    pub epilogue: Epilogue,
    pub y: usize,
    /// The norm before it, whose factor it applies.
    pub factor: Option<&'a Fold>,
    /// The norm after it, whose sums it makes.
    pub fold: Option<&'a Fold>,
}

/// Calls for one row.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Decode {
    pub calls: Vec<Call>,
    /// How many of them make keys and values; the others make logits.
    pub n_body: usize,
}

impl Lower<'_> {
    /// All calls for one row, whose logits may be wanted.
    pub(crate) fn decode(&self) -> Decode {
        let mut decode = Decode::default();
        let mut i = 0;
        while i < self.fused.nodes.len() {
            let y = self.fused.nodes[i].tensors().1;
            let is_body = y.is_none_or(|y| self.fused.tensors[y].rows == Rows::Step);
            i += self.decode_node(i, &mut decode.calls);
            if is_body {
                decode.n_body = decode.calls.len();
            }
        }
        decode
    }

    /// Adds the calls for node `i`, and returns how many nodes they do.
    fn decode_node(&self, i: usize, calls: &mut Vec<Call>) -> usize {
        let fused = self.fused;
        let after = fused.fold_after(i);
        match &fused.nodes[i] {
            // Of one row there is nothing to pick.
            Node::OutputRows { .. } if fused.is_direct => {}
            Node::RmsNorm { .. } if fused.fold_of(i).is_some_and(|fold| fold.is_gone) => {}
            Node::RmsNorm { x, weight, residual: Some(residual), y, .. } if fused.fold_of(i).is_some() => {
                calls.push(self.norm_add(i, x.tensor, weight, *residual, *y));
            }
            Node::Embed { table, scale, y } => self.embed(table, *scale, *y, after, calls),
            Node::ExpertMatMul(node) => self.expert_matmul(node, Mode::One, calls),
            Node::ExpertSum(node) => calls.push(self.expert_sum(node, after)),
            Node::MatMul { .. } => {
                let node = self.matvec_of(i);
                if let Some(call) = self.matvec_two(&node, i) {
                    calls.push(call);
                    return 2;
                }
                self.matvec(&node, calls);
            }
            node => self.node(node, Mode::One, calls),
        }
        1
    }

    fn matvec_of(&self, i: usize) -> MatVec<'_> {
        let Node::MatMul { x, matrix, bias, epilogue, y } = &self.fused.nodes[i] else {
            panic!("node {i} is no matmul")
        };
        let (factor, fold) = (self.fused.gone_norm(*x), self.fused.fold_after(i));
        MatVec { x: *x, matrix, bias, epilogue: *epilogue, y: *y, factor, fold }
    }

    /// The calls of a matvec, one for each part of its matrix.
    pub(super) fn matvec(&self, node: &MatVec<'_>, calls: &mut Vec<Call>) {
        let matrix = self.weights.matrix(node.matrix);
        let mut first_part = 0;
        for (part, piece) in matrix.parts.iter().enumerate() {
            let m = piece.rows.len();
            let tuning = self.matvec_tuning(node.matrix, m);
            let tune::MatVec { wg, lanes, rows, dp4a } = tuning;
            let n = tuning.workgroups(m) as u32;
            let mut shape = Shape { first_part, ..self.shape(node.matrix, part, node.y) };
            first_part += n;
            let mut constants: Constants = vec![("WG", wg.into()), ("LANES", lanes.into()), ("ROWS", rows.into())];
            let mut modules = self.quant_modules(matrix.format);
            if dp4a {
                modules[1].1 = "integers";
                constants.extend([("CHUNK", tune::DP4A_CHUNK.into()), ("WORDS", (4 * tune::DP4A_CHUNK).into())]);
            }
            modules.extend(self.matvec_modules(lanes, !dp4a));
            let mut binds = vec![(0, Bind::Tensor(node.x)), (1, Bind::Tensor(node.y))];
            self.finish(node.bias, node.epilogue, &mut modules, &mut binds);
            self.factor(node.factor, &mut modules, &mut constants, &mut binds, &mut shape);
            self.fold_into(node.fold, &mut modules, &mut constants, &mut binds);
            binds.push((5, Bind::Shape(shape)));
            let key = KernelKey { kernel: if dp4a { "matvec_dp4a" } else { "matvec" }, modules, constants };
            calls.push(Call { key, binds, matrix: Some((node.matrix.clone(), part)), grid: Grid::Linear(n) });
        }
    }

    fn matvec_tuning(&self, matrix: &MatrixRef, m: usize) -> tune::MatVec {
        let is_quantized = self.weights.matrix(matrix).format.block_len > 1;
        tune::matvec(self.caps, m, matrix.row_len() / GROUP, is_quantized)
    }

    pub(super) fn matvec_modules(&self, lanes: usize, has_x: bool) -> Modules {
        let x = has_x.then_some(("x", if tune::x_is_shared(self.caps, lanes) { "shared" } else { "direct" }));
        let sums = ("lanes", if self.caps.subgroup.is_some() { "subgroup" } else { "workgroup" });
        x.into_iter().chain([sums]).collect()
    }

    /// The calls for two to eight rows, of which each step needs one. A software adapter has none: there the tiles of a
    /// matmul are as good.
    pub(super) fn matvec_few(&self, node: &MatVec<'_>, part: usize) -> Vec<Call> {
        if self.caps.software {
            return vec![];
        }
        let matrix = self.weights.matrix(node.matrix);
        let m = matrix.parts[part].rows.len();
        let tune::MatVec { lanes, .. } = tune::matvec(self.caps, m, node.matrix.row_len() / GROUP, false);
        let wg = tune::MATVEC;
        let call = |cols: u32, rows: [u32; 2]| {
            let constants: Constants = vec![("WG", wg.into()), ("LANES", lanes.into()), ("COLS", cols.into())];
            let mut modules = self.quant_modules(matrix.format);
            modules.extend(self.matvec_modules(lanes, true));
            let mut binds = vec![(0, Bind::Tensor(node.x)), (1, Bind::Tensor(node.y)), (4, Bind::Step)];
            self.finish(node.bias, node.epilogue, &mut modules, &mut binds);
            modules.push(("fold", "none"));
            binds.push((5, Bind::Shape(self.shape(node.matrix, part, node.y))));
            let key = KernelKey { kernel: "matvec_few", modules, constants };
            let grid = Grid::Some { total: m.div_ceil(2 * wg / lanes) as u32, rows_each: cols, rows };
            Call { key, binds, matrix: Some((node.matrix.clone(), part)), grid }
        };
        vec![call(2, [2, 2]), call(4, [3, 4]), call(8, [5, matmul::FEW])]
    }

    /// Node `i` and the next one as one call, if they multiply the same x by matrices of two formats.
    fn matvec_two(&self, node: &MatVec<'_>, i: usize) -> Option<Call> {
        let Some(Node::MatMul { x, .. }) = self.fused.nodes.get(i + 1) else { return None };
        let next = self.matvec_of(i + 1);
        let [a, b] = [node, &next].map(|node| self.weights.matrix(node.matrix));
        let is_plain = |node: &MatVec<'_>| node.epilogue == Epilogue::Store && node.fold.is_none();
        let is_whole = a.parts.len() == 1 && b.parts.len() == 1;
        let n_bindings = 7 + a.format.planes.len() + b.format.planes.len();
        let fits = *x == node.x && is_plain(node) && is_plain(&next) && is_whole && a.format != b.format;
        if !fits || node.bias.is_empty() != next.bias.is_empty() || self.caps.max_bindings < n_bindings as u32 {
            return None;
        }
        let (m, m2) = (node.matrix.n_rows(), next.matrix.n_rows());
        let tune::MatVec { wg, lanes, .. } = tune::matvec(self.caps, m + m2, node.matrix.row_len() / GROUP, false);
        let rows = 4 * wg / lanes;
        let mut shape = Shape { m2: m2 as u32, ..self.shape(node.matrix, 0, node.y) };
        let mut constants: Constants = vec![("WG", wg.into()), ("LANES", lanes.into())];
        let mut modules = self.quant_modules(a.format);
        modules.extend(self.matvec_modules(lanes, true));
        modules.push(("quant2", b.format.name));
        let mut binds = vec![(0, Bind::Tensor(node.x)), (1, Bind::Tensor(node.y)), (2, Bind::Tensor(next.y))];
        modules.push(("bias", if node.bias.is_empty() { "none" } else { "vector" }));
        if !node.bias.is_empty() {
            binds.push((3, Bind::Vector(node.bias.iter().chain(next.bias).cloned().collect())));
        }
        self.factor(node.factor, &mut modules, &mut constants, &mut binds, &mut shape);
        binds.push((5, Bind::Shape(shape)));
        binds.extend((0..b.format.planes.len()).map(|p| (10 + p as u32, Bind::Plane(next.matrix.clone(), 0, p))));
        let key = KernelKey { kernel: "matvec_two", modules, constants };
        let grid = Grid::Linear((m.div_ceil(rows) + m2.div_ceil(rows)) as u32);
        Some(Call { key, binds, matrix: Some((node.matrix.clone(), 0)), grid })
    }

    /// What applies the factor of a norm whose sums are there, or nothing.
    pub(super) fn factor(
        &self,
        fold: Option<&Fold>,
        modules: &mut Modules,
        constants: &mut Constants,
        binds: &mut Vec<(u32, Bind)>,
        shape: &mut Shape,
    ) {
        let Some(fold) = fold else { return modules.push(("scale", "none")) };
        let Node::RmsNorm { eps, .. } = self.fused.nodes[fold.norm] else { panic!("node {} is no norm", fold.norm) };
        modules.push(("scale", "rms"));
        constants.push(("EPS", eps.into()));
        binds.push((6, Bind::Tensor(fold.parts)));
        shape.parts = self.n_parts(fold.producer);
    }

    /// What makes the sums of the norm that comes next, or nothing.
    pub(super) fn fold_into(
        &self,
        fold: Option<&Fold>,
        modules: &mut Modules,
        constants: &mut Constants,
        binds: &mut Vec<(u32, Bind)>,
    ) {
        let Some(fold) = fold else { return modules.push(("fold", "none")) };
        let Node::RmsNorm { weight, y, .. } = &self.fused.nodes[fold.norm] else {
            panic!("node {} is no norm", fold.norm)
        };
        modules.push(("fold", if fold.is_gone { "gain" } else { "squares" }));
        if modules.iter().all(|(slot, _)| *slot != "reduce") {
            self.reduce(modules, constants);
        }
        binds.push((10, Bind::Tensor(fold.parts)));
        if fold.is_gone {
            binds.extend([(8, Bind::Vector(vec![weight.clone()])), (9, Bind::Tensor(*y))]);
        }
    }

    /// A norm whose sums of squares are there, added to a residual.
    fn norm_add(&self, i: usize, x: usize, weight: &WeightRef, residual: usize, y: usize) -> Call {
        let width = weight.shape[1];
        let wg = tune::norm_add(self.caps);
        let mut shape = Shape { m: width as u32, groups: (width / GROUP) as u32, ..Shape::default() };
        let mut constants: Constants = vec![("WG", wg.into()), ("LANES", wg.into())];
        let mut modules = Modules::new();
        let mut binds = vec![(0, Bind::Tensor(x)), (1, Bind::Vector(vec![weight.clone()])), (2, Bind::Tensor(y))];
        self.factor(self.fused.fold_of(i), &mut modules, &mut constants, &mut binds, &mut shape);
        self.reduce(&mut modules, &mut constants);
        binds.extend([(3, Bind::Tensor(residual)), (5, Bind::Shape(shape))]);
        self.fold_into(self.fused.fold_after(i), &mut modules, &mut constants, &mut binds);
        let key = KernelKey { kernel: "norm_add", modules, constants };
        Call { key, binds, matrix: None, grid: Grid::Linear(width.div_ceil(2 * wg) as u32) }
    }

    /// Sums of squares that node `i` makes: one for each of its workgroups.
    fn n_parts(&self, i: usize) -> u32 {
        let n = match &self.fused.nodes[i] {
            Node::MatMul { matrix, .. } => {
                let rows = self.weights.matrix(matrix).parts.iter().map(|piece| piece.rows.len());
                rows.map(|m| self.matvec_tuning(matrix, m).workgroups(m)).sum()
            }
            Node::Embed { table, .. } => self.weights.matrix(table).parts.len() * self.embed_workgroups(table),
            Node::RmsNorm { weight, .. } => weight.shape[1].div_ceil(2 * tune::norm_add(self.caps)),
            Node::ExpertSum(sum) => self.width(sum.y).div_ceil(2 * tune::ELEMENTWISE),
            node => panic!("{node:?} makes no sums"),
        };
        n as u32
    }
}
