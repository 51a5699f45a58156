//! Builds a [`Graph`] and checks every name and shape while it does, so that a model file needs no checks of its own.
//!
//! The methods take `&self`, so that calls nest as a formula does. The first thing that is wrong with the file is
//! kept, and comes out of [`GraphBuilder::finish`]: a model reads as straight-line code without a `?` on each line.

use std::cell::RefCell;

use super::{Activation, AttentionSpec, Gating, Graph, KvShape, Op, Rope, Rows, Value, ValueId, WeightRef};
use crate::error::{Error, Result};

/// A handle on a value while the graph is being built: which one, and how its width is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Val {
    id: ValueId,
    rows: Rows,
    /// Heads × size of a head, or 1 × width.
    dims: [usize; 2],
}

impl Val {
    /// Reads the width as `n` heads.
    ///
    /// # Panics
    /// If the width is no multiple of `n`.
    pub fn heads(self, n: usize) -> Val {
        let width = self.width();
        assert!(n > 0 && width.is_multiple_of(n), "{width} numbers are not {n} heads");
        Val { dims: [n, width / n], ..self }
    }

    /// Numbers in a row.
    pub fn width(self) -> usize {
        self.dims[0] * self.dims[1]
    }

    /// Which value it is.
    pub fn id(self) -> ValueId {
        self.id
    }
}

/// Collects ops. `shapes` answers with the shape of a weight of the file, outermost dimension first.
pub struct GraphBuilder<'a> {
    shapes: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    state: RefCell<State>,
}

struct State {
    graph: Graph,
    error: Option<Error>,
}

/// Prefixes names with `blk.{il}.`.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    g: &'a GraphBuilder<'a>,
    il: usize,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph for the architecture `name`.
    pub fn new(name: &str, shapes: &'a dyn Fn(&str) -> Option<Vec<usize>>) -> Self {
        let graph = Graph {
            name: name.into(),
            ops: Vec::new(),
            values: Vec::new(),
            ropes: Vec::new(),
            kv: Vec::new(),
            logits: ValueId(0),
            n_vocab: 0,
        };
        Self { shapes, state: RefCell::new(State { graph, error: None }) }
    }

    /// Names inside the returned block start with `blk.{il}.`.
    pub fn block(&'a self, il: usize) -> Block<'a> {
        Block { g: self, il }
    }

    /// Whether the file has the tensor `{name}.weight`.
    pub fn has(&self, name: &str) -> bool {
        (self.shapes)(&format!("{name}.weight")).is_some()
    }

    /// Adds a rotary embedding; equal ones are kept once.
    pub fn rope(&self, rope: Rope) -> usize {
        let ropes = &mut self.state.borrow_mut().graph.ropes;
        ropes.iter().position(|r| *r == rope).unwrap_or_else(|| {
            ropes.push(rope);
            ropes.len() - 1
        })
    }

    /// The rows of table `name` for the step's tokens, times `scale`: `[T, D]`.
    pub fn embed(&self, name: &str, n_vocab: usize, n_embd: usize, scale: f32) -> Val {
        self.state.borrow_mut().graph.n_vocab = n_vocab;
        let table = self.weight(&format!("{name}.weight"), [n_vocab, n_embd]);
        self.push(format!("{name}.out"), Rows::Step, [1, n_embd], Op::Embed { table, scale })
    }

    /// Normalizes each head of x (or the whole row): same shape as x.
    pub fn rms_norm(&self, name: &str, x: Val, eps: f32) -> Val {
        let weight = self.weight(&format!("{name}.weight"), [1, x.dims[1]]);
        self.push(format!("{name}.out"), x.rows, x.dims, Op::RmsNorm { x: x.id, weight, eps })
    }

    /// x · Wᵀ, with the bias `{name}.bias` where the file has it: `[T, n_out]`.
    pub fn matmul(&self, name: &str, x: Val, n_out: usize) -> Val {
        let weight = self.weight(&format!("{name}.weight"), [n_out, x.width()]);
        self.matmul_with(name, x, weight)
    }

    /// As [`matmul`](Self::matmul), with a weight of another name (tied embeddings).
    pub fn matmul_tied(&self, name: &str, x: Val, n_out: usize, weight_name: &str) -> Val {
        let weight = self.weight(&format!("{weight_name}.weight"), [n_out, x.width()]);
        self.matmul_with(name, x, weight)
    }

    fn matmul_with(&self, name: &str, x: Val, weight: WeightRef) -> Val {
        let n_out = weight.shape[0];
        let bias_name = format!("{name}.bias");
        let bias = (self.shapes)(&bias_name).is_some().then(|| self.weight(&bias_name, [1, n_out]));
        self.push(format!("{name}.out"), x.rows, [1, n_out], Op::MatMul { x: x.id, weight, bias })
    }

    /// a + b, named after b.
    pub fn add(&self, a: Val, b: Val) -> Val {
        assert_eq!((a.rows, a.width()), (b.rows, b.width()), "add: shapes differ");
        self.push(self.derived(b, "add"), a.rows, a.dims, Op::Add { a: a.id, b: b.id })
    }

    /// The rows whose logits are wanted: `[N, D]`.
    pub fn output_rows(&self, x: Val) -> Val {
        self.push("output_rows.out".into(), Rows::Output, x.dims, Op::OutputRows { x: x.id })
    }

    /// factor · x
    pub fn scale(&self, x: Val, factor: f32) -> Val {
        self.push(self.derived(x, "scale"), x.rows, x.dims, Op::Scale { x: x.id, factor })
    }

    /// cap · tanh(x / cap)
    pub fn softcap(&self, x: Val, cap: f32) -> Val {
        self.push(self.derived(x, "softcap"), x.rows, x.dims, Op::Softcap { x: x.id, cap })
    }

    /// The finished graph, whose logits are `logits`.
    ///
    /// # Errors
    /// The first tensor that the file lacks or has in another shape.
    pub fn finish(self, logits: Val) -> Result<Graph> {
        let State { mut graph, error } = self.state.into_inner();
        if let Some(error) = error {
            return Err(error);
        }
        assert_eq!(logits.rows, Rows::Output, "logits are made of output rows");
        assert_eq!(logits.width(), graph.n_vocab, "one logit per token of the vocabulary");
        graph.logits = logits.id;
        Ok(graph)
    }

    fn derived(&self, of: Val, what: &str) -> String {
        let state = self.state.borrow();
        let name = &state.graph.values[of.id.index()].name;
        format!("{}.{what}", name.strip_suffix(".out").unwrap_or(name))
    }

    fn weight(&self, name: &str, shape: [usize; 2]) -> WeightRef {
        // A vector, or a matrix of one row, is stored as [K] or as [1, K].
        let short = if shape[0] == 1 { &shape[1..] } else { &shape[..] };
        self.check(name, short, &shape);
        WeightRef { name: name.into(), rows: None, shape }
    }

    /// The matrices of all experts, one below the other: `{name}_exps`, or in early files `{name}.0`, `{name}.1`, …
    fn expert_weights(&self, name: &str, [n_expert, m, k]: [usize; 3]) -> Vec<WeightRef> {
        let (stacked, each) = (format!("{name}_exps.weight"), |e: usize| format!("{name}.{e}.weight"));
        if (self.shapes)(&stacked).is_none() && (self.shapes)(&each(0)).is_some() {
            return (0..n_expert).map(|e| self.weight(&each(e), [m, k])).collect();
        }
        let shape = [n_expert, m, k];
        self.check(&stacked, &shape, &shape);
        vec![WeightRef { name: stacked, rows: None, shape: [n_expert * m, k] }]
    }

    /// Keeps an error if the file lacks a tensor, or has it in neither of two shapes.
    fn check(&self, name: &str, expected: &[usize], other: &[usize]) {
        let error = match (self.shapes)(name) {
            None => Error::MissingTensor { tensor: name.into() },
            Some(found) if found == expected || found == other => return,
            Some(found) => Error::TensorShape { tensor: name.into(), expected: expected.into(), found },
        };
        self.state.borrow_mut().error.get_or_insert(error);
    }

    fn push(&self, name: String, rows: Rows, dims: [usize; 2], op: Op) -> Val {
        let graph = &mut self.state.borrow_mut().graph;
        debug_assert!(graph.values.iter().all(|v| v.name != name), "two values are named {name}");
        let id = ValueId(graph.values.len() as u32);
        graph.values.push(Value { name, rows, width: dims[0] * dims[1] });
        graph.ops.push(op);
        Val { id, rows, dims }
    }
}

impl Block<'_> {
    /// Which layer it is.
    pub fn layer(&self) -> usize {
        self.il
    }

    fn name(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.il)
    }

    /// Whether the file has the tensor `blk.{il}.{name}.weight`.
    pub fn has(&self, name: &str) -> bool {
        self.g.has(&self.name(name))
    }

    /// See [`GraphBuilder::rms_norm`].
    pub fn rms_norm(&self, name: &str, x: Val, eps: f32) -> Val {
        self.g.rms_norm(&self.name(name), x, eps)
    }

    /// See [`GraphBuilder::matmul`].
    pub fn matmul(&self, name: &str, x: Val, n_out: usize) -> Val {
        self.g.matmul(&self.name(name), x, n_out)
    }

    /// As [`matmul`](Self::matmul) with the rows `range` of a tensor that holds several matrices (fused q, k, v);
    /// `as_name` names the result.
    pub fn matmul_rows(&self, name: &str, as_name: &str, x: Val, n_rows: usize, range: std::ops::Range<usize>) -> Val {
        let mut weight = self.g.weight(&format!("{}.weight", self.name(name)), [n_rows, x.width()]);
        weight.shape[0] = range.len();
        weight.rows = Some(range);
        self.g.matmul_with(&self.name(as_name), x, weight)
    }

    /// Rotates each head of x with the rotary embedding `rope` (from [`GraphBuilder::rope`]).
    pub fn rope(&self, x: Val, rope: usize) -> Val {
        let op = Op::Rope { x: x.id, head_dim: x.dims[1], rope };
        self.g.push(self.g.derived(x, "rope"), x.rows, x.dims, op)
    }

    /// Stores k and v `[T, Hkv, Dh]` in this layer's KV cache and attends to it with q `[T, H, Dh]`: `[T, H·Dh]`.
    pub fn attention(&self, q: Val, k: Val, v: Val, options: AttentionOptions) -> Val {
        let [n_head, head_dim] = q.dims;
        let [n_head_kv, kv_dim] = k.dims;
        assert_eq!((k.dims, kv_dim), (v.dims, head_dim), "attention: k and v have one shape, and q's head size");
        assert!(n_head.is_multiple_of(n_head_kv), "attention: {n_head} heads share {n_head_kv} KV heads");
        let layer = {
            let kv = &mut self.g.state.borrow_mut().graph.kv;
            kv.push(KvShape { n_head_kv, head_dim });
            kv.len() - 1
        };
        self.g.push(self.name("kv.store"), q.rows, [1, 0], Op::StoreKv { layer, k: k.id, v: v.id });
        let AttentionOptions { scale, window, softcap, sinks } = options;
        let sinks = sinks.map(|name| self.g.weight(&format!("{}.weight", self.name(name)), [1, n_head]));
        let spec = AttentionSpec { layer, n_head, n_head_kv, head_dim, scale, window, softcap };
        self.g.push(self.name("attn.out"), q.rows, [1, n_head * head_dim], Op::Attention { q: q.id, spec, sinks })
    }

    /// Chooses `n_used` experts for each row by its logits `[T, E]`, see [`Op::Route`]: `[T, 2, U]`. Where they are weighed by
    /// sigmoids, the file may have a bias for the choice, `exp_probs_b.bias`.
    pub fn route(&self, logits: Val, n_used: usize, gating: Gating, scale: f32) -> Val {
        assert!((1..=logits.width()).contains(&n_used), "route: {n_used} of {} experts", logits.width());
        let bias = self.name("exp_probs_b.bias");
        let has_bias = gating.is_sigmoid() && (self.g.shapes)(&bias).is_some();
        let bias = has_bias.then(|| self.g.weight(&bias, [1, logits.width()]));
        let op = Op::Route { x: logits.id, bias, n_used, gating, scale };
        self.g.push(self.name("ffn_moe_topk.out"), logits.rows, [2, n_used], op)
    }

    /// sigmoid(gate) · x, with one gate `[T, 1]` for each row: `[T, D]`, named after x.
    pub fn row_gate(&self, x: Val, gate: Val) -> Val {
        assert_eq!((gate.rows, gate.width()), (x.rows, 1), "row_gate: one gate a row");
        self.g.push(self.g.derived(x, "gated"), x.rows, x.dims, Op::RowGate { x: x.id, gate: gate.id })
    }

    /// x · Wᵀ with the matrices `{name}_exps` `[n_out, K]` of the experts that `route` chose, with the bias `{name}_exps.bias` where
    /// the file has it: `[T, U, n_out]`. x is `[T, K]`, or `[T, U, K]` with one row an expert.
    pub fn expert_matmul(&self, name: &str, x: Val, route: Val, n_expert: usize, n_out: usize) -> Val {
        let ([n_x, k], [_, n_used]) = (x.dims, route.dims);
        assert!(n_x == 1 || n_x == n_used, "expert_matmul: {n_x} rows of x for {n_used} experts");
        let name = self.name(name);
        let weights = self.g.expert_weights(&name, [n_expert, n_out, k]);
        let bias = format!("{name}_exps.bias");
        let bias = (self.g.shapes)(&bias).is_some().then(|| self.g.weight(&bias, [n_expert, n_out]));
        let op = Op::ExpertMatMul { x: x.id, route: route.id, weights, bias, n_expert, n_used };
        self.g.push(format!("{name}_exps.out"), x.rows, [n_used, n_out], op)
    }

    /// What the experts of a row gave, `[T, U, D]`, each times its weight, added up: `[T, D]`.
    pub fn expert_sum(&self, x: Val, route: Val) -> Val {
        let ([n_used, width], [_, routed]) = (x.dims, route.dims);
        assert_eq!(n_used, routed, "expert_sum: one result an expert");
        let op = Op::ExpertSum { x: x.id, route: route.id, n_used };
        self.g.push(self.name("ffn_moe.out"), x.rows, [1, width], op)
    }

    /// act(gate) · up, named after gate.
    pub fn gated(&self, gate: Val, up: Val, act: Activation) -> Val {
        assert_eq!(gate.width(), up.width(), "gated: shapes differ");
        let op = Op::Gated { gate: gate.id, up: up.id, act };
        self.g.push(self.g.derived(gate, "act"), gate.rows, gate.dims, op)
    }

    /// a + b, named after b.
    pub fn add(&self, a: Val, b: Val) -> Val {
        self.g.add(a, b)
    }
}

/// What an architecture chooses about attention; the shapes come from q, k and v.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor on q·k.
    pub scale: f32,
    /// Sliding window in positions, the row's own included.
    pub window: Option<usize>,
    /// Bound on the scores.
    pub softcap: Option<f32>,
    /// Name of a weight with a logit for each head that takes part in softmax and weighs no value: `attn_sinks`.
    ///
    /// Source: Xiao et al., <https://arxiv.org/abs/2309.17453>; learned as in gpt-oss, <https://arxiv.org/abs/2508.10925>.
    pub sinks: Option<&'static str>,
}

impl AttentionOptions {
    /// Over all positions, with this factor on q·k, and nothing else.
    pub fn new(scale: f32) -> Self {
        Self { scale, window: None, softcap: None, sinks: None }
    }
}
