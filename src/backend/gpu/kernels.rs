//! Which kernel does a node, with which modules, constants, bindings and grid: plain data, made without a device.
//!
//! A node becomes one call, or one per part where its weight is split over several bindings. Whether one row runs
//! or many decides between matvec and matmul; everything else is the same kernel with another grid.

use super::KvFormat;
use super::attention::Visible;
use super::device::Capabilities;
use super::experts;
use super::fold::Fold;
use super::fuse::{Epilogue, Fused, Node, View};
use super::matmul::{self, Many};
use super::matvec::MatVec;
use super::memory::{GROUP, MatrixRef, WeightMemory};
use super::shader::{Constant, KernelKey};
use super::tune;
use crate::backend::{Limits, Row};
use crate::graph::{Activation, AttentionSpec, Graph, RopeKind, Rows, WeightRef};
use crate::quant::Format;

/// Whether a list of calls runs one row or any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    One,
    Many,
}

/// Sizes of a matmul, as `shaders/lib/shape.wgsl` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Shape {
    pub m: u32,
    pub groups: u32,
    pub y_stride: u32,
    pub y_offset: u32,
    pub section: u32,
    pub parts: u32,
    pub first_part: u32,
    pub m2: u32,
}

/// What fills a binding of group 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bind {
    Tensor(usize),
    /// f32 weights, one after another.
    Vector(Vec<WeightRef>),
    Keys(usize),
    Values(usize),
    Step,
    Rows,
    Outputs,
    Tables,
    Angles(usize),
    Shape(Shape),
    /// A plane of a part of the second matrix of a kernel that has two.
    Plane(MatrixRef, usize, usize),
    /// How the token of each output row is drawn.
    Draws,
    /// What a row's slices have to offer.
    Candidates,
    /// The tokens of the last step that chose any.
    Chosen,
    /// What splits of attention leave for the merge.
    Partials,
    /// The slots of experts, sorted.
    Sorted,
}

/// Workgroups of a call, once the number of rows is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// This many in all; over two dimensions where one is too short.
    Linear(u32),
    /// x for every `rows_each` rows.
    PerRows { x: u32, rows_each: u32 },
    /// This many in all, over x and z where one is too short, for every `rows_each` rows; in steps of so many rows only.
    Some { total: u32, rows_each: u32, rows: [u32; 2] },
    /// This many in all, over x and z where one is too short, for every use of an expert; in steps of so many rows only.
    Slots { total: u32, n_used: u32, n_expert: u32, rows: [u32; 2] },
    /// x for every `slots_each` uses of one expert, over y and z where one is too short; in steps of so many rows only.
    Tiles { x: u32, slots_each: u32, n_used: u32, n_expert: u32, rows: [u32; 2] },
    /// x for every `rows_each` rows and every split of what they see, in steps of so many rows only.
    Splits { x: u32, rows_each: u32, rows: [u32; 2], visible: Option<Visible> },
    /// x for every row, if there is more than one split, in steps of so many rows only.
    Merge { x: u32, rows: [u32; 2], visible: Visible },
}

impl Grid {
    /// Workgroups in x, y and z for `n` rows of a step of `rows`; `None` if the call has nothing to do.
    pub(crate) fn size(self, n: u32, rows: &[Row]) -> Option<[u32; 3]> {
        const MOST: u32 = 65535;
        match self {
            Grid::Linear(total) => Some([total.min(MOST), total.div_ceil(MOST), 1]),
            Grid::PerRows { x, rows_each } => Some([x, n.div_ceil(rows_each), 1]),
            Grid::Some { total, rows_each, rows: [least, most] } => {
                (least..=most).contains(&n).then(|| [total.min(MOST), n.div_ceil(rows_each), total.div_ceil(MOST)])
            }
            Grid::Slots { total, n_used, rows: [least, most], .. } => {
                (least..=most).contains(&n).then(|| [total.min(MOST), n * n_used, total.div_ceil(MOST)])
            }
            Grid::Tiles { x, slots_each, n_used, n_expert, rows: [least, most] } => {
                (least..=most).contains(&n).then(|| {
                    let tiles = experts::n_tiles(n * n_used, slots_each, n_expert);
                    [x, tiles.min(MOST), tiles.div_ceil(MOST)]
                })
            }
            Grid::Splits { x, rows_each, rows: [least, most], visible } => (least..=most).contains(&n).then(|| {
                let splits = visible.map_or(1, |visible| visible.most(rows));
                [x, n.div_ceil(rows_each), splits]
            }),
            Grid::Merge { x, rows: [least, most], visible } => {
                ((least..=most).contains(&n) && visible.most(rows) > 1).then_some([x, n, 1])
            }
        }
    }
}

/// A dispatch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub key: KernelKey,
    /// Binding number in group 0, and what goes there.
    pub binds: Vec<(u32, Bind)>,
    /// The matrix in group 1, and which part of it.
    pub matrix: Option<(MatrixRef, usize)>,
    pub grid: Grid,
}

/// Makes calls.
pub(crate) struct Lower<'a> {
    pub graph: &'a Graph,
    pub fused: &'a Fused,
    pub caps: &'a Capabilities,
    pub weights: &'a WeightMemory,
    pub limits: &'a Limits,
    pub kv: KvFormat,
}

pub(super) type Constants = Vec<(&'static str, Constant)>;
pub(super) type Modules = Vec<(&'static str, &'static str)>;

impl Lower<'_> {
    /// All calls for the nodes whose results have rows of kind `rows`.
    pub(crate) fn section(&self, rows: Rows, mode: Mode) -> Vec<Call> {
        let mut calls = Vec::new();
        for node in &self.fused.nodes {
            let of = node.tensors().1.map_or(Rows::Step, |y| self.fused.tensors[y].rows);
            if of == rows {
                self.node(node, mode, &mut calls);
            }
        }
        calls
    }

    pub(super) fn width(&self, tensor: usize) -> usize {
        self.fused.tensors[tensor].width
    }

    pub(super) fn node(&self, node: &Node, mode: Mode, calls: &mut Vec<Call>) {
        match node {
            Node::Embed { table, scale, y } => self.embed(table, *scale, *y, None, calls),
            Node::MatMul { x, matrix, bias, epilogue, y } => {
                self.matmul(*x, matrix, bias, *epilogue, *y, mode, calls);
            }
            Node::RmsNorm { x, weight, eps, runs, residual, y } => {
                calls.push(self.rms_norm(*x, weight, *eps, *runs, *residual, *y));
            }
            // Attention does it.
            Node::RopeKv { .. } if mode == Mode::One && self.folds() => {}
            Node::RopeKv { q, k, v, norms, rope, spec, y } => {
                calls.push(self.rope_kv([*q, *k, *v], norms.as_ref(), *rope, spec, *y));
            }
            Node::Rope { x, head_dim, rope, y } => calls.push(self.rope(*x, *head_dim, *rope, *y)),
            Node::StoreKv { layer, k, v } => calls.push(self.store_kv(*layer, *k, *v)),
            Node::Attention { q, spec, sinks, y } => self.attention(*q, spec, sinks.as_ref(), *y, mode, calls),
            Node::Gated { gate, up, act, y } => {
                let modules = vec![("act", activation(*act))];
                calls.push(self.elementwise("gated", modules, vec![], &[*gate, *up], None, *y));
            }
            Node::Route(node) => self.route(node, mode, calls),
            Node::RowGate { x, gate, residual, y } => {
                let mut call = self.elementwise("row_gate", vec![], vec![], &[*x, *gate], None, *y);
                call.key.modules.push(("residual", if residual.is_some() { "add" } else { "none" }));
                call.binds.extend(residual.map(|r| (3, Bind::Tensor(r))));
                calls.push(call);
            }
            Node::ExpertMatMul(node) => self.expert_matmul(node, mode, calls),
            Node::ExpertSum(node) => calls.push(self.expert_sum(node, None)),
            Node::Add { a, b, y } => calls.push(self.elementwise("add", vec![], vec![], &[*a, *b], None, *y)),
            Node::OutputRows { x, y } => {
                calls.push(self.elementwise("output_rows", vec![], vec![], &[*x], Some(Bind::Outputs), *y));
            }
            Node::Scale { x, factor, y } => {
                calls.push(self.elementwise("scale", vec![], vec![("FACTOR", (*factor).into())], &[*x], None, *y));
            }
            Node::Softcap { x, cap, y } => {
                calls.push(self.elementwise("softcap", vec![], vec![("CAP", (*cap).into())], &[*x], None, *y));
            }
        }
    }

    /// A kernel with one invocation per element of its result: inputs, then `extra`, then the result.
    pub(super) fn elementwise(
        &self,
        kernel: &'static str,
        modules: Modules,
        mut constants: Constants,
        inputs: &[usize],
        extra: Option<Bind>,
        y: usize,
    ) -> Call {
        let width = self.width(y);
        constants.extend([("D", width.into()), ("WG", tune::ELEMENTWISE.into())]);
        let binds = inputs.iter().map(|&t| Bind::Tensor(t)).chain(extra).chain([Bind::Tensor(y)]);
        Call {
            key: KernelKey { kernel, modules, constants },
            binds: (0..).zip(binds).collect(),
            matrix: None,
            grid: Grid::PerRows { x: width.div_ceil(tune::ELEMENTWISE) as u32, rows_each: 1 },
        }
    }

    /// Workgroups that a part of an embedding table takes for a row.
    pub(super) fn embed_workgroups(&self, table: &MatrixRef) -> usize {
        (table.row_len() / GROUP).div_ceil(tune::ELEMENTWISE)
    }

    pub(super) fn embed(&self, table: &MatrixRef, scale: f32, y: usize, fold: Option<&Fold>, calls: &mut Vec<Call>) {
        let matrix = self.weights.matrix(table);
        let n = self.embed_workgroups(table) as u32;
        for part in 0..matrix.parts.len() {
            let mut constants = vec![("SCALE", scale.into()), ("WG", tune::ELEMENTWISE.into())];
            let mut modules = self.quant_modules(matrix.format);
            let shape = Shape { first_part: part as u32 * n, ..self.shape(table, part, y) };
            let mut binds = vec![(0, Bind::Rows), (1, Bind::Tensor(y)), (7, Bind::Chosen), (5, Bind::Shape(shape))];
            self.fold_into(fold, &mut modules, &mut constants, &mut binds);
            let key = KernelKey { kernel: "embed", modules, constants };
            let grid = Grid::PerRows { x: n, rows_each: 1 };
            calls.push(Call { key, binds, matrix: Some((table.clone(), part)), grid });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one node")]
    fn matmul(
        &self,
        x: usize,
        matrix_ref: &MatrixRef,
        bias: &[WeightRef],
        epilogue: Epilogue,
        y: usize,
        mode: Mode,
        calls: &mut Vec<Call>,
    ) {
        if mode == Mode::One {
            let node = MatVec { x, matrix: matrix_ref, bias, epilogue, y, factor: None, fold: None };
            return self.matvec(&node, calls);
        }
        let matrix = self.weights.matrix(matrix_ref);
        let many = matmul::many(self.caps);
        for (part, piece) in matrix.parts.iter().enumerate() {
            let m = piece.rows.len();
            let few =
                self.matvec_few(&MatVec { x, matrix: matrix_ref, bias, epilogue, y, factor: None, fold: None }, part);
            let least = if few.is_empty() { 2 } else { matmul::FEW + 1 };
            calls.extend(few);
            let mut modules = self.quant_modules(matrix.format);
            modules.extend(self.many_modules(&many, "rows"));
            let mut binds = vec![(0, Bind::Tensor(x)), (1, Bind::Tensor(y)), (4, Bind::Step)];
            binds.push((5, Bind::Shape(self.shape(matrix_ref, part, y))));
            self.finish(bias, epilogue, &mut modules, &mut binds);
            modules.push(("fold", "none"));
            let [tile_m, tile_t] = many.tile;
            let total = m.div_ceil(tile_m) as u32;
            let grid = Grid::Some { total, rows_each: tile_t as u32, rows: [least, u32::MAX] };
            let key = KernelKey { kernel: many.kernel, modules, constants: many.constants.clone() };
            calls.push(Call { key, binds, matrix: Some((matrix_ref.clone(), part)), grid });
        }
    }

    /// Sizes of a part of a matrix, whose results go to `y`.
    pub(super) fn shape(&self, matrix_ref: &MatrixRef, part: usize, y: usize) -> Shape {
        let rows = &self.weights.matrix(matrix_ref).parts[part].rows;
        Shape {
            m: rows.len() as u32,
            groups: (matrix_ref.row_len() / GROUP) as u32,
            y_stride: self.width(y) as u32,
            y_offset: rows.start as u32,
            section: u32::from(self.fused.tensors[y].rows == Rows::Output),
            ..Shape::default()
        }
    }

    /// The modules that read a format.
    pub(super) fn quant_modules(&self, format: &'static Format) -> Modules {
        let half = if self.caps.f16 { "native" } else { "packed" };
        vec![("quant", format.name), ("dot", tune::dot(self.caps)), ("half", half)]
    }

    /// The modules of a kernel for many rows, which are taken as `tile` says.
    pub(super) fn many_modules(&self, many: &Many, tile: &'static str) -> Modules {
        let x = if tune::x_is_shared(self.caps, 1) { "shared" } else { "direct" };
        [("x", x), ("tile", tile)].into_iter().filter(|(slot, _)| many.slots.contains(slot)).collect()
    }

    /// What is done with the results of a matmul.
    pub(super) fn finish(
        &self,
        bias: &[WeightRef],
        epilogue: Epilogue,
        modules: &mut Modules,
        binds: &mut Vec<(u32, Bind)>,
    ) {
        match epilogue {
            Epilogue::Store => modules.push(("epilogue", "store")),
            Epilogue::Add(r) => {
                binds.push((2, Bind::Tensor(r)));
                modules.push(("epilogue", "add"));
            }
            Epilogue::Gated(act) => modules.extend([("act", activation(act)), ("epilogue", "gated")]),
        }
        modules.push(("bias", if bias.is_empty() { "none" } else { "vector" }));
        if !bias.is_empty() {
            binds.push((3, Bind::Vector(bias.to_vec())));
        }
    }

    /// The constants and the module of the reductions over a workgroup.
    pub(super) fn reduce(&self, modules: &mut Modules, constants: &mut Constants) {
        match self.caps.subgroup {
            Some(size) => {
                modules.push(("reduce", "subgroup"));
                constants.push(("SUBGROUP", size.into()));
            }
            None => modules.push(("reduce", "workgroup")),
        }
    }

    fn rms_norm(&self, x: View, weight: &WeightRef, eps: f32, runs: usize, residual: Option<usize>, y: usize) -> Call {
        let width = weight.shape[1];
        let wg = tune::reduction(self.caps, width);
        let mut modules = vec![("residual", if residual.is_some() { "add" } else { "none" })];
        let mut constants = vec![
            ("D", width.into()),
            ("X_STRIDE", self.width(x.tensor).into()),
            ("X_OFFSET", x.offset.into()),
            ("EPS", eps.into()),
            ("WG", wg.into()),
        ];
        self.reduce(&mut modules, &mut constants);
        let vector = Bind::Vector(vec![weight.clone()]);
        let mut binds = vec![(0, Bind::Tensor(x.tensor)), (1, vector), (2, Bind::Tensor(y))];
        binds.extend(residual.map(|r| (3, Bind::Tensor(r))));
        let key = KernelKey { kernel: "rms_norm", modules, constants };
        Call { key, binds, matrix: None, grid: Grid::PerRows { x: runs as u32, rows_each: 1 } }
    }

    pub(super) fn rope_constants(&self, rope: usize) -> [(&'static str, Constant); 2] {
        let rope = &self.graph.ropes[rope];
        let neox = usize::from(rope.kind == RopeKind::Neox);
        [("N_ROT", (2 * rope.inv_freq.len()).into()), ("NEOX", neox.into())]
    }

    fn rope(&self, x: usize, head_dim: usize, rope: usize, y: usize) -> Call {
        let mut constants = vec![("HEAD_DIM", head_dim.into()), ("WG", tune::ELEMENTWISE.into())];
        constants.extend(self.rope_constants(rope));
        let heads = (self.width(x) / head_dim) as u32;
        Call {
            key: KernelKey { kernel: "rope", modules: vec![], constants },
            binds: vec![(0, Bind::Tensor(x)), (1, Bind::Angles(rope)), (2, Bind::Tensor(y))],
            matrix: None,
            grid: Grid::PerRows { x: heads, rows_each: 1 },
        }
    }

    fn store_kv(&self, layer: usize, k: usize, v: usize) -> Call {
        let shape = self.graph.kv[layer];
        let constants = vec![
            ("N_HEAD_KV", shape.n_head_kv.into()),
            ("HEAD_DIM", shape.head_dim.into()),
            ("FRESH_LEN", (shape.head_dim / 2).into()),
            ("WG", tune::ELEMENTWISE.into()),
        ];
        let modules = vec![("kv", self.kv.module()), ("kv_store", self.kv.module())];
        let binds = [Bind::Tensor(k), Bind::Tensor(v), Bind::Rows, Bind::Keys(layer), Bind::Values(layer)];
        Call {
            key: KernelKey { kernel: "store_kv", modules, constants },
            binds: (0..).zip(binds).collect(),
            matrix: None,
            grid: Grid::PerRows { x: shape.n_head_kv as u32, rows_each: 1 },
        }
    }

    fn rope_kv(
        &self,
        [q, k, v]: [View; 3],
        norms: Option<&([WeightRef; 2], f32)>,
        rope: usize,
        spec: &AttentionSpec,
        y: usize,
    ) -> Call {
        let wg = tune::reduction(self.caps, spec.head_dim);
        let mut constants = vec![
            ("N_HEAD", spec.n_head.into()),
            ("N_HEAD_KV", spec.n_head_kv.into()),
            ("HEAD_DIM", spec.head_dim.into()),
            ("Q_STRIDE", self.width(q.tensor).into()),
            ("Q_OFFSET", q.offset.into()),
            ("K_STRIDE", self.width(k.tensor).into()),
            ("K_OFFSET", k.offset.into()),
            ("V_STRIDE", self.width(v.tensor).into()),
            ("V_OFFSET", v.offset.into()),
            ("FRESH_LEN", (spec.head_dim / 2).into()),
            ("WG", wg.into()),
        ];
        constants.extend(self.rope_constants(rope));
        let mut modules = vec![("kv", self.kv.module()), ("kv_store", self.kv.module())];
        self.reduce(&mut modules, &mut constants);
        let heads = [q, k, v].map(|view| Bind::Tensor(view.tensor));
        let layer = spec.layer;
        let rest = [Bind::Rows, Bind::Angles(rope), Bind::Tensor(y), Bind::Keys(layer), Bind::Values(layer)];
        let mut binds: Vec<_> = (0..).zip(heads.into_iter().chain(rest)).collect();
        self.head_norm(norms, &mut modules, &mut constants, &mut binds);
        Call {
            key: KernelKey { kernel: "rope_kv", modules, constants },
            binds,
            matrix: None,
            grid: Grid::PerRows { x: (spec.n_head + spec.n_head_kv) as u32, rows_each: 1 },
        }
    }
}

pub(super) fn activation(act: Activation) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::SwigluOai => "swiglu_oai",
    }
}
