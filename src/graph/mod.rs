//! What a model computes: a list of ops over named tensors, with shapes and nothing else.
//!
//! A [`Graph`] holds no bytes, no device and no quantized format: weights appear by name and shape. Both back
//! ends compile the same graph. Every value is a matrix of f32 with one row per row of the step (or per row whose
//! logits are wanted) and a fixed width; heads are a way of reading a width, not a layout.
//!
//! Shape letters: T rows in a step, N rows of output, D embedding, F feed-forward, H heads, Hkv, Dh, E experts, U experts that
//! are used for a row, V vocabulary.

mod builder;
mod text;

pub use builder::{AttentionOptions, Block, GraphBuilder, Val};

use std::ops::Range;

/// Index of a value in [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which rows a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One per row of the step: T.
    Step,
    /// One per row whose logits are wanted: N.
    Output,
}

/// A tensor that an op makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// GGUF's name of the op's weight where it has one, with what it is: `blk.3.attn_norm.out`.
    pub name: String,
    /// T or N rows.
    pub rows: Rows,
    /// Numbers in a row.
    pub width: usize,
}

/// A weight by name, whole or some of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightRef {
    /// GGUF's name: `blk.3.attn_q.weight`.
    pub name: String,
    /// The rows that are meant, where a file fuses several matrices into one tensor.
    pub rows: Option<Range<usize>>,
    /// Rows M and row length K of what is meant; a vector is `[1, K]`.
    pub shape: [usize; 2],
}

/// Which elements of a head RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeKind {
    /// Pairs (2i, 2i + 1): llama.
    Norm,
    /// Pairs (i, i + n/2): gemma3, qwen2, …
    Neox,
}

/// Rotary position embedding: the pair i of row t turns by `pos[t] * inv_freq[i]`, and is scaled by `scale`.
///
/// Source: Su et al., RoFormer, <https://arxiv.org/abs/2104.09864>, section 3.2.2.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which elements form a pair.
    pub kind: RopeKind,
    /// Radians per position, one per pair, all scalings applied; twice its length is the number of elements that turn.
    pub inv_freq: Vec<f64>,
    /// Factor on the rotated pair (YaRN's attention scale; 1 otherwise).
    pub scale: f32,
}

/// Gated activation functions, of a gate g and what it lets through, u.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// g · sigmoid(g) · u
    Silu,
    /// The tanh form of GELU: 0.5 g (1 + tanh(√(2/π) (g + 0.044715 g³))) · u
    Gelu,
    /// gpt-oss: g · sigmoid(1.702 g) · (u + 1), with g at most 7 and u within ±7.
    SwigluOai,
}

/// What the weights of the experts that are used for a row are, of their logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gating {
    /// A softmax of those that are used: the weights of a row add up to 1. A softmax of all, divided by its sum over those
    /// that are used, is the same.
    Used,
    /// A softmax of all experts.
    All,
    /// The sigmoid of each.
    Sigmoid,
    /// The same, divided by its sum over those that are used.
    NormedSigmoid,
}

impl Gating {
    /// Whether the weights are sigmoids.
    pub fn is_sigmoid(self) -> bool {
        matches!(self, Gating::Sigmoid | Gating::NormedSigmoid)
    }
}

/// How attention reads the KV cache. All in one place since both back ends need all of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Which layer's KV cache.
    pub layer: usize,
    /// Query heads, H.
    pub n_head: usize,
    /// Key and value heads, Hkv; query head h reads KV head h / (H / Hkv).
    pub n_head_kv: usize,
    /// Size of a head, Dh.
    pub head_dim: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// With `Some(n)`, a row at position p sees positions p-n+1 ..= p only.
    pub window: Option<usize>,
    /// With `Some(c)`, scores become c · tanh(score / c).
    pub softcap: Option<f32>,
}

/// What a value is made by. Inputs come before the op that uses them.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Rows of the table for the step's tokens, times `scale`: `[T, D]`.
    Embed {
        /// `[V, D]`
        table: WeightRef,
        /// Factor (√D in Gemma).
        scale: f32,
    },
    /// x / √(mean(x²) + eps) · weight, over each run of `weight.shape[1]` numbers (a row, or each head of it).
    RmsNorm {
        /// `[T, D]` or `[T, H·Dh]`
        x: ValueId,
        /// `[1, D]` or `[1, Dh]`
        weight: WeightRef,
        /// Added to the mean of squares.
        eps: f32,
    },
    /// y = x · Wᵀ (+ bias): `[T, K]` → `[T, M]`.
    MatMul {
        /// `[T, K]`
        x: ValueId,
        /// `[M, K]`
        weight: WeightRef,
        /// `[1, M]`
        bias: Option<WeightRef>,
    },
    /// Rotates each head of x by the row's position.
    Rope {
        /// `[T, H·Dh]`
        x: ValueId,
        /// Size of a head, Dh; elements beyond `2 * inv_freq.len()` pass through.
        head_dim: usize,
        /// Index into [`Graph::ropes`].
        rope: usize,
    },
    /// Writes the rows' keys and values into the KV cache of `layer`. Makes no value of its own (width 0).
    StoreKv {
        /// Which layer's KV cache.
        layer: usize,
        /// `[T, Hkv·Dh]`
        k: ValueId,
        /// `[T, Hkv·Dh]`
        v: ValueId,
    },
    /// softmax(q·Kᵀ · scale) · V over the positions that each row may see: `[T, H·Dh]`.
    Attention {
        /// `[T, H·Dh]`
        q: ValueId,
        /// Heads, scale, window.
        spec: AttentionSpec,
        /// `[1, H]`: a logit for each head that takes part in the sum below the fraction of softmax, and weighs no value.
        sinks: Option<WeightRef>,
    },
    /// The U experts with the largest logits, of equal ones those with the lowest numbers, and how much they weigh: `[T, 2·U]`,
    /// first their numbers in descending order of logits, then their weights times `scale`.
    ///
    /// Source: Shazeer et al., <https://arxiv.org/abs/1701.06538>, section 2.1; Jiang et al., <https://arxiv.org/abs/2401.04088>;
    /// sigmoids and their bias: DeepSeek-AI, <https://arxiv.org/abs/2412.19437>, section 2.1.2.
    Route {
        /// `[T, E]`
        x: ValueId,
        /// `[1, E]`: experts are chosen by their sigmoids with this added, and weighed without.
        bias: Option<WeightRef>,
        /// U
        n_used: usize,
        /// What the weights are.
        gating: Gating,
        /// Factor on the weights.
        scale: f32,
    },
    /// y = x · Wᵀ (+ bias) with the matrices of the experts that a row uses: `[T, U·M]`. The others are not read.
    ExpertMatMul {
        /// `[T, K]` for all experts of a row, or `[T, U·K]`.
        x: ValueId,
        /// What [`Op::Route`] made.
        route: ValueId,
        /// `[E·M, K]`, expert by expert: one tensor, or one for each expert.
        weights: Vec<WeightRef>,
        /// `[E, M]`
        bias: Option<WeightRef>,
        /// E
        n_expert: usize,
        /// U
        n_used: usize,
    },
    /// sigmoid(gate) · x, with one gate for a row: `[T, D]`.
    RowGate {
        /// `[T, D]`
        x: ValueId,
        /// `[T, 1]`
        gate: ValueId,
    },
    /// The sum of what a row's experts gave, each times its weight: `[T, D]`.
    ExpertSum {
        /// `[T, U·D]`
        x: ValueId,
        /// What [`Op::Route`] made.
        route: ValueId,
        /// U
        n_used: usize,
    },
    /// act(gate) · up
    Gated {
        /// `[T, F]`
        gate: ValueId,
        /// `[T, F]`
        up: ValueId,
        /// The function on the gate.
        act: Activation,
    },
    /// a + b
    Add {
        /// `[T, D]`
        a: ValueId,
        /// `[T, D]`
        b: ValueId,
    },
    /// The rows whose logits are wanted: `[T, D]` → `[N, D]`.
    OutputRows {
        /// `[T, D]`
        x: ValueId,
    },
    /// factor · x
    Scale {
        /// `[N, V]`
        x: ValueId,
        /// The factor.
        factor: f32,
    },
    /// cap · tanh(x / cap)
    Softcap {
        /// `[N, V]`
        x: ValueId,
        /// The bound.
        cap: f32,
    },
}

impl Op {
    /// The values that this op reads, in order.
    pub fn inputs(&self) -> Vec<ValueId> {
        match self {
            Op::Embed { .. } => vec![],
            Op::RmsNorm { x, .. }
            | Op::MatMul { x, .. }
            | Op::Rope { x, .. }
            | Op::Route { x, .. }
            | Op::OutputRows { x }
            | Op::Scale { x, .. }
            | Op::Softcap { x, .. } => vec![*x],
            Op::ExpertMatMul { x, route, .. } | Op::ExpertSum { x, route, .. } => vec![*x, *route],
            Op::RowGate { x, gate } => vec![*x, *gate],
            Op::Attention { q, .. } => vec![*q],
            Op::StoreKv { k, v, .. } => vec![*k, *v],
            Op::Gated { gate, up, .. } => vec![*gate, *up],
            Op::Add { a, b } => vec![*a, *b],
        }
    }

    /// The weights that this op reads, in order.
    pub fn weights(&self) -> Vec<&WeightRef> {
        match self {
            Op::Embed { table, .. } => vec![table],
            Op::RmsNorm { weight, .. } => vec![weight],
            Op::MatMul { weight, bias, .. } => std::iter::once(weight).chain(bias).collect(),
            Op::ExpertMatMul { weights, bias, .. } => weights.iter().chain(bias).collect(),
            Op::Route { bias, .. } => bias.iter().collect(),
            Op::Attention { sinks, .. } => sinks.iter().collect(),
            _ => vec![],
        }
    }
}

/// The width of one position in a layer's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Hkv
    pub n_head_kv: usize,
    /// Dh
    pub head_dim: usize,
}

/// A model as data. Made by [`GraphBuilder`], which checks it; the ops are in an order in which they can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Architecture, for messages.
    pub name: String,
    /// Op i makes value i.
    pub ops: Vec<Op>,
    /// What op i makes.
    pub values: Vec<Value>,
    /// Rotary embeddings in use (one per base frequency).
    pub ropes: Vec<Rope>,
    /// One per layer.
    pub kv: Vec<KvShape>,
    /// The value that holds the logits, `[N, V]`.
    pub logits: ValueId,
    /// Vocabulary size, V.
    pub n_vocab: usize,
}

impl Graph {
    /// Ops with what they make.
    pub fn iter(&self) -> impl Iterator<Item = (ValueId, &Op, &Value)> {
        self.ops.iter().zip(&self.values).enumerate().map(|(i, (op, value))| (ValueId(i as u32), op, value))
    }

    /// What a value is.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value with this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(|i| ValueId(i as u32))
    }

    /// For each value, the index of the last op that reads it (its own index if none does).
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.ops.len()).collect();
        for (i, op) in self.ops.iter().enumerate() {
            for input in op.inputs() {
                last[input.index()] = i;
            }
        }
        last[self.logits.index()] = self.ops.len();
        last
    }
}
