//! Turns a graph into the steps that kernels can do: ops alone, or several of them in one.
//!
//! What is fused, and why: q, k, v of one format become one stacked matrix, since GPUs run the dispatches of a pass one
//! after another; head norms, RoPE and the KV store one kernel over heads; gate and up one interleaved matrix whose
//! epilogue applies the activation, those of experts as well; a residual is added by the matmul, the norm or the sum over experts
//! before it. Nothing is fused when
//! tensors are to be kept, so that each value of the graph exists.

use super::experts::{ExpertMatMul, ExpertSum, Route};
use super::fold::Fold;
use super::memory::{MatrixRef, Order};
use crate::graph::{Activation, AttentionSpec, Graph, Op, Rows, ValueId, WeightRef};

/// A value, or a piece of a wider one: element `(t, i)` lies at `t · stride + offset + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Index into [`Fused::tensors`].
    pub tensor: usize,
    pub offset: usize,
}

/// A tensor that exists on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub rows: Rows,
    pub width: usize,
    /// The value of the graph that it is, where it is exactly one.
    pub value: Option<ValueId>,
}

/// What a matmul does with its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Epilogue {
    Store,
    /// Adds a tensor of the same shape.
    Add(usize),
    /// act(even rows) · odd rows
    Gated(Activation),
}

/// Something that one kernel does. Tensors are indices into [`Fused::tensors`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Embed {
        table: MatrixRef,
        scale: f32,
        y: usize,
    },
    /// `runs` norms a row, each over `weight`'s length.
    RmsNorm {
        x: View,
        weight: WeightRef,
        eps: f32,
        runs: usize,
        residual: Option<usize>,
        y: usize,
    },
    MatMul {
        x: usize,
        matrix: MatrixRef,
        bias: Vec<WeightRef>,
        epilogue: Epilogue,
        y: usize,
    },
    Rope {
        x: usize,
        head_dim: usize,
        rope: usize,
        y: usize,
    },
    StoreKv {
        layer: usize,
        k: usize,
        v: usize,
    },
    /// Head norms (weights of q and k, eps), RoPE and KV store in one.
    RopeKv {
        q: View,
        k: View,
        v: View,
        norms: Option<([WeightRef; 2], f32)>,
        rope: usize,
        spec: AttentionSpec,
        y: usize,
    },
    Attention {
        q: usize,
        spec: AttentionSpec,
        sinks: Option<WeightRef>,
        y: usize,
    },
    Gated {
        gate: usize,
        up: usize,
        act: Activation,
        y: usize,
    },
    Route(Route),
    RowGate {
        x: usize,
        gate: usize,
        residual: Option<usize>,
        y: usize,
    },
    ExpertMatMul(ExpertMatMul),
    ExpertSum(ExpertSum),
    Add {
        a: usize,
        b: usize,
        y: usize,
    },
    OutputRows {
        x: usize,
        y: usize,
    },
    Scale {
        x: usize,
        factor: f32,
        y: usize,
    },
    Softcap {
        x: usize,
        cap: f32,
        y: usize,
    },
}

impl Node {
    /// Tensors read, then the one written (a fold adds to these).
    pub(crate) fn tensors(&self) -> (Vec<usize>, Option<usize>) {
        match self {
            Node::Embed { y, .. } => (vec![], Some(*y)),
            Node::RmsNorm { x, residual, y, .. } => (std::iter::once(x.tensor).chain(*residual).collect(), Some(*y)),
            Node::MatMul { x, epilogue: Epilogue::Add(r), y, .. } => (vec![*x, *r], Some(*y)),
            Node::MatMul { x, y, .. } | Node::Rope { x, y, .. } => (vec![*x], Some(*y)),
            Node::OutputRows { x, y }
            | Node::Scale { x, y, .. }
            | Node::Softcap { x, y, .. }
            | Node::Route(Route { x, y, .. }) => (vec![*x], Some(*y)),
            Node::ExpertMatMul(ExpertMatMul { x, route, y, .. }) => (vec![*x, *route], Some(*y)),
            Node::RowGate { x, gate, residual, y } => ([*x, *gate].into_iter().chain(*residual).collect(), Some(*y)),
            Node::ExpertSum(ExpertSum { x, route, residual, y, .. }) => {
                ([*x, *route].into_iter().chain(*residual).collect(), Some(*y))
            }
            Node::StoreKv { k, v, .. } => (vec![*k, *v], None),
            Node::RopeKv { q, k, v, y, .. } => (vec![q.tensor, k.tensor, v.tensor], Some(*y)),
            Node::Attention { q, y, .. } => (vec![*q], Some(*y)),
            Node::Gated { gate, up, y, .. } => (vec![*gate, *up], Some(*y)),
            Node::Add { a, b, y } => (vec![*a, *b], Some(*y)),
        }
    }
}

/// The steps in order, with the tensors that they make.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Fused {
    pub nodes: Vec<Node>,
    pub tensors: Vec<Tensor>,
    /// Norms that a step of one row leaves to their neighbours; see `fold`.
    pub folds: Vec<Fold>,
    /// Whether picking rows has nothing to do in a step of one row: what reads the picked ones is a norm that is gone.
    pub is_direct: bool,
    /// The tensor that holds the logits.
    pub logits: usize,
}

/// One node an op.
pub(crate) fn plain(graph: &Graph) -> Fused {
    Fuser::new(graph, &|_, _| false, 0).run()
}

/// As few nodes as the kernels allow. `same_format` tells whether two weights can be one matrix; `max_bindings` is the
/// number of storage buffers that a kernel may bind.
pub(crate) fn fuse(graph: &Graph, same_format: &dyn Fn(&WeightRef, &WeightRef) -> bool, max_bindings: usize) -> Fused {
    let mut fuser = Fuser::new(graph, same_format, max_bindings);
    fuser.find();
    fuser.run()
}

/// What an op is part of.
#[derive(Debug, Clone)]
enum Role {
    /// Runs on its own.
    Alone,
    /// Done by a later op.
    Absorbed,
    /// `StoreKv`, with the chains that lead to it.
    Heads(Box<Heads>),
    /// `Gated`, of two matmuls.
    GatedMatMul,
    /// `Gated`, of two products with experts.
    GatedExperts,
    /// `Add`, of a residual and the result of this op.
    Residual { residual: ValueId, of: ValueId },
}

/// q, k and v from their matmuls to the KV store.
#[derive(Debug, Clone)]
struct Heads {
    matmuls: [ValueId; 3],
    /// Of each head.
    norms: Option<([WeightRef; 2], f32)>,
    /// The norms of all of q and of all of k (OLMo 2), which are nodes of their own.
    row_norms: Option<[ValueId; 2]>,
    rope: usize,
    /// The value that attention reads.
    q: ValueId,
    spec: AttentionSpec,
}

struct Fuser<'a> {
    graph: &'a Graph,
    same_format: &'a dyn Fn(&WeightRef, &WeightRef) -> bool,
    max_bindings: usize,
    uses: Vec<usize>,
    roles: Vec<Role>,
    /// Where each value lies.
    places: Vec<Option<View>>,
    fused: Fused,
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph, same_format: &'a dyn Fn(&WeightRef, &WeightRef) -> bool, max_bindings: usize) -> Self {
        let mut uses = vec![0; graph.ops.len()];
        for input in graph.ops.iter().flat_map(Op::inputs) {
            uses[input.index()] += 1;
        }
        let n = graph.ops.len();
        let (roles, places) = (vec![Role::Alone; n], vec![None; n]);
        Self { graph, same_format, max_bindings, uses, roles, places, fused: Fused::default() }
    }

    /// The op that makes `id`, if nothing else reads it and nothing has absorbed it.
    fn private(&self, id: ValueId) -> Option<&'a Op> {
        let free = self.uses[id.index()] == 1 && matches!(self.roles[id.index()], Role::Alone);
        free.then(|| &self.graph.ops[id.index()])
    }

    /// Gives roles to the ops.
    fn find(&mut self) {
        for (id, op, _) in self.graph.iter() {
            match op {
                Op::StoreKv { .. } => self.find_heads(id),
                Op::Gated { gate, up, .. } => self.find_gated(id, *gate, *up),
                Op::Add { a, b } => self.find_residual(id, *a, *b),
                _ => {}
            }
        }
    }

    fn find_heads(&mut self, store: ValueId) {
        let Op::StoreKv { layer, k, v } = self.graph.ops[store.index()] else { return };
        let attention = self.graph.ops.iter().find_map(|op| match op {
            Op::Attention { q, spec, .. } if spec.layer == layer => Some((*q, *spec)),
            _ => None,
        });
        let Some((q, spec)) = attention else { return };
        let (Some(q_chain), Some(k_chain)) = (self.head_chain(q), self.head_chain(k)) else { return };
        let Some(Op::MatMul { .. }) = self.private(v) else { return };
        if q_chain.rope != k_chain.rope {
            return;
        }
        let (mut norms, mut row_norms) = (None, None);
        match (q_chain.norm, k_chain.norm) {
            (None, None) => {}
            (Some(HeadNorm { weight: q, eps, .. }), Some(HeadNorm { weight: k, eps: k_eps, .. }))
                if [q, k].iter().all(|w| w.shape[1] == spec.head_dim) && eps == k_eps =>
            {
                norms = Some(([q.clone(), k.clone()], eps));
            }
            (Some(q), Some(k)) if [q, k].iter().all(|norm| norm.weight.shape[1] == self.graph.value(norm.id).width) => {
                row_norms = Some([q.id, k.id]);
            }
            _ => return,
        }
        // rope_kv binds q, k, v, rows, angles, y, keys, values, and the norms' weights.
        if self.max_bindings < 8 + usize::from(norms.is_some()) || !spec.head_dim.is_multiple_of(4) {
            return;
        }
        for id in q_chain.absorbed.iter().chain(&k_chain.absorbed).chain([&v]) {
            self.roles[id.index()] = Role::Absorbed;
        }
        let matmuls = [q_chain.matmul, k_chain.matmul, v];
        let rope = q_chain.rope;
        self.roles[store.index()] = Role::Heads(Box::new(Heads { matmuls, norms, row_norms, rope, q, spec }));
    }

    /// rope ← (norm ←) matmul, from the end.
    fn head_chain(&self, end: ValueId) -> Option<HeadChain<'a>> {
        let Some(Op::Rope { x, rope, .. }) = self.private(end) else { return None };
        let mut absorbed = vec![end, *x];
        match self.private(*x)? {
            Op::MatMul { .. } => Some(HeadChain { matmul: *x, norm: None, rope: *rope, absorbed }),
            Op::RmsNorm { x: y, weight, eps } => {
                absorbed.push(*y);
                let Op::MatMul { .. } = self.private(*y)? else { return None };
                let norm = HeadNorm { id: *x, weight, eps: *eps };
                Some(HeadChain { matmul: *y, norm: Some(norm), rope: *rope, absorbed })
            }
            _ => None,
        }
    }

    fn find_gated(&mut self, id: ValueId, gate: ValueId, up: ValueId) {
        if let (
            Some(Op::MatMul { x: gate_x, weight: gate_w, bias: gate_b }),
            Some(Op::MatMul { x: up_x, weight: up_w, bias: up_b }),
        ) = (self.private(gate), self.private(up))
            && gate_x == up_x
            && gate_b.is_none()
            && up_b.is_none()
            && (self.same_format)(gate_w, up_w)
        {
            self.roles[gate.index()] = Role::Absorbed;
            self.roles[up.index()] = Role::Absorbed;
            self.roles[id.index()] = Role::GatedMatMul;
        }
        if let (
            Some(Op::ExpertMatMul { x: gate_x, route: gate_r, weights: gate_w, bias: gate_b, .. }),
            Some(Op::ExpertMatMul { x: up_x, route: up_r, weights: up_w, bias: up_b, .. }),
        ) = (self.private(gate), self.private(up))
            && (gate_x, gate_r) == (up_x, up_r)
            && gate_b.is_some() == up_b.is_some()
            && gate_w.len() == up_w.len()
            && (self.same_format)(&gate_w[0], &up_w[0])
        {
            self.roles[gate.index()] = Role::Absorbed;
            self.roles[up.index()] = Role::Absorbed;
            self.roles[id.index()] = Role::GatedExperts;
        }
    }

    fn find_residual(&mut self, id: ValueId, a: ValueId, b: ValueId) {
        for (residual, of) in [(a, b), (b, a)] {
            let width = self.graph.value(of).width;
            let absorbs = match self.private(of) {
                Some(Op::MatMul { .. } | Op::ExpertSum { .. } | Op::RowGate { .. }) => true,
                Some(Op::RmsNorm { weight, .. }) => weight.shape[1] == width,
                _ => false,
            };
            if absorbs && residual != of {
                self.roles[of.index()] = Role::Absorbed;
                self.roles[id.index()] = Role::Residual { residual, of };
                return;
            }
        }
    }

    /// Makes the nodes, in the order of the graph.
    fn run(mut self) -> Fused {
        for (id, op, _) in self.graph.iter() {
            match self.roles[id.index()].clone() {
                Role::Absorbed => {}
                Role::Alone => self.alone(id, op),
                Role::Heads(heads) => self.heads(&heads),
                Role::GatedMatMul => self.gated_matmul(id, op),
                Role::GatedExperts => self.gated_experts(id, op),
                Role::Residual { residual, of } => self.residual(id, residual, of),
            }
        }
        self.fused.logits = self.at(self.graph.logits);
        self.fused
    }

    /// Where a value lies.
    fn place(&self, id: ValueId) -> View {
        self.places[id.index()].unwrap_or_else(|| panic!("no place for `{}`", self.graph.value(id).name))
    }

    /// The tensor of a value that is a tensor of its own.
    fn at(&self, id: ValueId) -> usize {
        let View { tensor, offset } = self.place(id);
        let name = &self.graph.value(id).name;
        assert_eq!(offset, 0, "`{name}` lies in a tensor with others");
        tensor
    }

    /// A new tensor for the value `id`.
    fn make(&mut self, id: ValueId) -> usize {
        let value = self.graph.value(id);
        let tensor = self.fused.tensors.len();
        self.fused.tensors.push(Tensor { rows: value.rows, width: value.width, value: Some(id) });
        self.places[id.index()] = Some(View { tensor, offset: 0 });
        tensor
    }

    fn alone(&mut self, id: ValueId, op: &Op) {
        let node = match op {
            Op::Embed { table, scale } => {
                Node::Embed { table: MatrixRef::single(table), scale: *scale, y: self.make(id) }
            }
            Op::RmsNorm { x, weight, eps } => {
                let runs = self.graph.value(*x).width / weight.shape[1];
                let (x, weight) = (self.place(*x), weight.clone());
                Node::RmsNorm { x, weight, eps: *eps, runs, residual: None, y: self.make(id) }
            }
            Op::MatMul { x, weight, bias } => {
                let (x, matrix, bias) = (self.at(*x), MatrixRef::single(weight), bias.iter().cloned().collect());
                Node::MatMul { x, matrix, bias, epilogue: Epilogue::Store, y: self.make(id) }
            }
            Op::Rope { x, head_dim, rope } => {
                Node::Rope { x: self.at(*x), head_dim: *head_dim, rope: *rope, y: self.make(id) }
            }
            Op::StoreKv { layer, k, v } => Node::StoreKv { layer: *layer, k: self.at(*k), v: self.at(*v) },
            Op::Attention { q, spec, sinks } => {
                Node::Attention { q: self.at(*q), spec: *spec, sinks: sinks.clone(), y: self.make(id) }
            }
            Op::Gated { gate, up, act } => {
                Node::Gated { gate: self.at(*gate), up: self.at(*up), act: *act, y: self.make(id) }
            }
            Op::Route { x, bias, n_used, gating, scale } => {
                let (x, bias, n_used) = (self.at(*x), bias.clone(), *n_used);
                Node::Route(Route { x, bias, n_used, gating: *gating, scale: *scale, y: self.make(id) })
            }
            Op::RowGate { x, gate } => {
                Node::RowGate { x: self.at(*x), gate: self.at(*gate), residual: None, y: self.make(id) }
            }
            Op::ExpertMatMul { weights, bias, .. } => {
                let matrix = MatrixRef { weights: weights.clone(), order: Order::Stacked };
                self.expert_matmul(id, op, matrix, bias.iter().cloned().collect(), None)
            }
            Op::ExpertSum { x, route, n_used } => {
                let (x, route, n_used) = (self.at(*x), self.at(*route), *n_used);
                Node::ExpertSum(ExpertSum { x, route, n_used, residual: None, y: self.make(id) })
            }
            Op::Add { a, b } => Node::Add { a: self.at(*a), b: self.at(*b), y: self.make(id) },
            Op::OutputRows { x } => Node::OutputRows { x: self.at(*x), y: self.make(id) },
            Op::Scale { x, factor } => Node::Scale { x: self.at(*x), factor: *factor, y: self.make(id) },
            Op::Softcap { x, cap } => Node::Softcap { x: self.at(*x), cap: *cap, y: self.make(id) },
        };
        self.fused.nodes.push(node);
    }

    fn matmul(&self, id: ValueId) -> (ValueId, &'a WeightRef, Option<&'a WeightRef>) {
        match &self.graph.ops[id.index()] {
            Op::MatMul { x, weight, bias } => (*x, weight, bias.as_ref()),
            op => panic!("{op:?} is not a matmul"),
        }
    }

    /// The matmuls of q, k and v, those that can stacked into one, then the kernel over heads.
    fn heads(&mut self, heads: &Heads) {
        let mut left: Vec<ValueId> = heads.matmuls.to_vec();
        while let Some(&first) = left.first() {
            let (x, weight, bias) = self.matmul(first);
            let (stack, rest) = left.iter().partition::<Vec<ValueId>, _>(|&&id| {
                let (other_x, other, other_bias) = self.matmul(id);
                id == first
                    || (other_x == x && other_bias.is_some() == bias.is_some() && (self.same_format)(weight, other))
            });
            left = rest;
            self.stack(x, &stack);
        }
        // Norms of rows read their part of the stack.
        let norms = heads.row_norms.into_iter().flatten();
        norms.for_each(|norm| self.alone(norm, &self.graph.ops[norm.index()]));
        let [q, k, v] = heads.matmuls;
        let [q_norm, k_norm] = heads.row_norms.unwrap_or([q, k]);
        let [q, k, v] = [q_norm, k_norm, v].map(|id| self.place(id));
        let (norms, rope, spec) = (heads.norms.clone(), heads.rope, heads.spec);
        let y = self.make(heads.q);
        self.fused.nodes.push(Node::RopeKv { q, k, v, norms, rope, spec, y });
    }

    /// One matmul for several with the same x.
    fn stack(&mut self, x: ValueId, ids: &[ValueId]) {
        let (mut weights, mut bias, mut width) = (Vec::new(), Vec::new(), 0);
        let y = self.fused.tensors.len();
        for &id in ids {
            let (_, weight, b) = self.matmul(id);
            self.places[id.index()] = Some(View { tensor: y, offset: width });
            width += weight.shape[0];
            weights.push(weight.clone());
            bias.extend(b.cloned());
        }
        let value = (ids.len() == 1).then_some(ids[0]);
        self.fused.tensors.push(Tensor { rows: self.graph.value(ids[0]).rows, width, value });
        let matrix = MatrixRef { weights, order: Order::Stacked };
        let x = self.at(x);
        self.fused.nodes.push(Node::MatMul { x, matrix, bias, epilogue: Epilogue::Store, y });
    }

    fn gated_matmul(&mut self, id: ValueId, op: &Op) {
        let Op::Gated { gate, up, act } = op else { panic!("{op:?} is not gated") };
        let ((x, gate, _), (_, up, _)) = (self.matmul(*gate), self.matmul(*up));
        let matrix = MatrixRef { weights: vec![gate.clone(), up.clone()], order: Order::Pairs };
        let x = self.at(x);
        let y = self.make(id);
        self.fused.nodes.push(Node::MatMul { x, matrix, bias: vec![], epilogue: Epilogue::Gated(*act), y });
    }

    /// The node of a product with experts `op`, or of what is made of two like it, which is the value `id`.
    fn expert_matmul(
        &mut self,
        id: ValueId,
        op: &Op,
        matrix: MatrixRef,
        bias: Vec<WeightRef>,
        act: Option<Activation>,
    ) -> Node {
        let Op::ExpertMatMul { x, route, n_expert, n_used, .. } = op else { panic!("{op:?} has no experts") };
        let (x, route, n_expert, n_used) = (self.at(*x), self.at(*route), *n_expert, *n_used);
        Node::ExpertMatMul(ExpertMatMul { x, route, matrix, bias, act, n_expert, n_used, y: self.make(id) })
    }

    fn gated_experts(&mut self, id: ValueId, op: &Op) {
        let Op::Gated { gate, up, act } = op else { panic!("{op:?} is not gated") };
        let [(gate, gates, gate_bias), (_, ups, up_bias)] = [gate, up].map(|id| {
            let op = &self.graph.ops[id.index()];
            let Op::ExpertMatMul { weights, bias, .. } = op else { panic!("{op:?} has no experts") };
            (op, weights, bias)
        });
        let weights = gates.iter().zip(ups).flat_map(|(gate, up)| [gate.clone(), up.clone()]).collect();
        let bias = gate_bias.iter().chain(up_bias).cloned().collect();
        let matrix = MatrixRef { weights, order: Order::Pairs };
        let node = self.expert_matmul(id, gate, matrix, bias, Some(*act));
        self.fused.nodes.push(node);
    }

    fn residual(&mut self, id: ValueId, residual: ValueId, of: ValueId) {
        let residual = self.at(residual);
        let node = match &self.graph.ops[of.index()] {
            Op::MatMul { x, weight, bias } => {
                let (x, matrix, bias) = (self.at(*x), MatrixRef::single(weight), bias.iter().cloned().collect());
                Node::MatMul { x, matrix, bias, epilogue: Epilogue::Add(residual), y: self.make(id) }
            }
            Op::RmsNorm { x, weight, eps } => {
                let (x, weight) = (self.place(*x), weight.clone());
                Node::RmsNorm { x, weight, eps: *eps, runs: 1, residual: Some(residual), y: self.make(id) }
            }
            Op::ExpertSum { x, route, n_used } => {
                let (x, route, n_used) = (self.at(*x), self.at(*route), *n_used);
                Node::ExpertSum(ExpertSum { x, route, n_used, residual: Some(residual), y: self.make(id) })
            }
            Op::RowGate { x, gate } => {
                let (x, gate) = (self.at(*x), self.at(*gate));
                Node::RowGate { x, gate, residual: Some(residual), y: self.make(id) }
            }
            op => panic!("{op:?} takes no residual"),
        };
        self.fused.nodes.push(node);
    }
}

struct HeadChain<'a> {
    matmul: ValueId,
    norm: Option<HeadNorm<'a>>,
    rope: usize,
    absorbed: Vec<ValueId>,
}

#[derive(Clone, Copy)]
struct HeadNorm<'a> {
    id: ValueId,
    weight: &'a WeightRef,
    eps: f32,
}
