//! The CPU back end: the reference for every other executor, and beside it kernels that are as fast as memory is.
//!
//! A program keeps the graph as it is and walks through its ops, each on all rows of the step: `ops` has what an op
//! computes, `simd` the same for wide vectors, `threads` deals it out, `values` has the buffers. Weights stay where the
//! file is mapped.

mod absence;
mod advice;
mod ahead;
mod attention;
mod experts;
mod fast;
mod multiversion;
mod ops;
mod readahead;
pub(super) mod simd;
mod threads;
mod values;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use self::fast::Fast;
use self::ops::attention::Context;
use self::ops::kv::KvCache;
use self::readahead::ReadAhead;
pub use self::simd::Isa;
use self::simd::elementwise;
use self::simd::kv::Cache;
use self::threads::Pool;
use self::values::Values;
use crate::backend::{
    CHOSEN, Info, KvFormat, Limits, Memory, Output, Program, Row, Step, Ticket, Want, Weights, check_step, draw,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, ValueId, WeightRef};
use crate::quant::Weight;

/// Weight rows in a task of a matrix product: some ten microseconds of work.
const MATMUL_ROWS: usize = 4 * ops::matmul::PANEL;
/// Numbers in a task of an op that treats each number by itself.
const ELEMENTS: usize = 1024;

/// What computes the ops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// SIMD kernels for the best instruction set that the processor has; the reference if there is none.
    #[default]
    Fast,
    /// SIMD kernels for this instruction set.
    Only(Isa),
    /// The scalar ops that define what is right: f32 throughout, exact weights.
    Reference,
}

impl Kernels {
    /// Whether they store keys and values so; those of the reference are f32.
    pub fn stores(self, kv: KvFormat) -> bool {
        let is_reference = self == Kernels::Reference || self == Kernels::Fast && Isa::best().is_none();
        !is_reference || kv == KvFormat::F32
    }

    /// The names of all of them.
    pub fn names() -> Vec<&'static str> {
        ["fast", "reference"].into_iter().chain(Isa::ALL.map(Isa::name)).collect()
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernels::Fast => "fast",
            Kernels::Only(isa) => isa.name(),
            Kernels::Reference => "reference",
        })
    }
}

impl FromStr for Kernels {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        match name {
            "fast" => Ok(Kernels::Fast),
            "reference" => Ok(Kernels::Reference),
            name => name.parse().map(Kernels::Only),
        }
    }
}

/// How a graph is to be run on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that compute, the caller's own among them; at least 1.
    pub threads: usize,
    /// Keep every value of a step, for [`Program::tensor`], instead of using its memory again.
    pub keep_tensors: bool,
    /// What computes.
    pub kernels: Kernels,
    /// How SIMD kernels store keys and values; the reference has f32 only.
    pub kv: KvFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 1, keep_tensors: false, kernels: Kernels::Fast, kv: KvFormat::F16 }
    }
}

/// Logits that a thread searches for the largest one at a time: some microseconds.
const VOCAB_PART: usize = 16 * 1024;

/// Compiles `graph` with its `weights`.
///
/// # Errors
/// If a weight is missing or has another shape than the graph says, the processor has not the instruction set that was asked
/// for, or threads can't be started.
pub fn compile(graph: &Graph, weights: &dyn Weights, limits: Limits, options: Options) -> Result<CpuProgram> {
    let op_weights = graph.ops.iter().map(|op| OpWeights::new(op, weights)).collect::<Result<Vec<_>>>()?;
    let threads = options.threads.max(1);
    let isa = match options.kernels {
        Kernels::Fast => Isa::best(),
        Kernels::Only(isa) if isa.is_available() => Some(isa),
        Kernels::Only(isa) => {
            return Err(Error::Usage {
                what: format!("kernels for {isa} on a processor without it"),
                hint: "leave the choice of kernels out: the best ones are found".into(),
            });
        }
        Kernels::Reference => None,
    };
    let groups = match isa {
        Some(_) => fast::groups(graph),
        None => (0..graph.ops.len()).map(|i| vec![i]).collect(),
    };
    let fast = isa.map(|isa| Fast::new(isa, graph, &groups, threads));
    // A row of a table is nothing to be asked for.
    // Which experts will be read, nobody knows.
    let matrix = |&i: &usize| matches!(graph.ops[i], Op::MatMul { .. }).then(|| op_weights[i].matrix().bytes.clone());
    let read_ahead = ReadAhead::new(groups.iter().map(|group| group.iter().filter_map(matrix).collect()).collect());
    let ahead = fast.as_ref().map(|fast| fast.ahead(graph, &groups, &op_weights)).unwrap_or_default();
    let pool = Pool::new(threads, scratch_len(graph, &limits, isa), ahead).map_err(|error| Error::Usage {
        what: format!("cannot start {threads} threads: {error}"),
        hint: "use fewer threads (`-t`)".into(),
    })?;
    Ok(CpuProgram {
        values: Values::new(graph, &groups, &limits, options.keep_tensors),
        angles: graph.ropes.iter().map(|rope| vec![[0.0; 2]; limits.max_rows * rope.inv_freq.len()]).collect(),
        kv: match isa {
            Some(_) => Kv::Fast(Cache::new(options.kv, &graph.kv, limits.n_pages)),
            None => Kv::Reference(KvCache::new(&graph.kv, limits.n_pages)),
        },
        graph: graph.clone(),
        weights: op_weights,
        groups,
        read_ahead,
        fast,
        threads,
        pool,
        chosen: Vec::new(),
        limits,
        options,
    })
}

/// A graph that runs on the CPU.
pub struct CpuProgram {
    graph: Graph,
    limits: Limits,
    options: Options,
    threads: usize,
    /// The ops in the order in which they run; those of a group run as one.
    groups: Vec<Vec<usize>>,
    read_ahead: ReadAhead,
    /// For the SIMD kernels, if they are what computes.
    fast: Option<Fast>,
    /// For each op.
    weights: Vec<OpWeights>,
    values: Values,
    /// For each rope of the graph (cos, sin) by row and pair.
    angles: Vec<Vec<[f32; 2]>>,
    kv: Kv,
    pool: Pool,
    /// The tokens of the last step that chose any.
    chosen: Vec<Option<u32>>,
}

/// The KV cache.
enum Kv {
    Reference(KvCache),
    Fast(Cache),
}

/// What an op reads of the file.
struct OpWeights {
    /// `[M, K]`, as the file has it; or one such matrix for each expert.
    matrices: Vec<Weight>,
    /// A norm's weight or a bias, dequantized.
    vector: Option<Vec<f32>>,
}

impl OpWeights {
    fn new(op: &Op, weights: &dyn Weights) -> Result<Self> {
        let find = |weight: &WeightRef| find(weights, weight);
        let (matrices, vector) = match op {
            Op::Embed { table, .. } => (vec![find(table)?], None),
            Op::RmsNorm { weight, .. } => (vec![], Some(weight)),
            Op::MatMul { weight, bias, .. } => (vec![find(weight)?], bias.as_ref()),
            Op::ExpertMatMul { weights, bias, n_expert, .. } => {
                let mut experts = Vec::with_capacity(*n_expert);
                for weight in weights {
                    let stacked = find(weight)?;
                    let m = stacked.n_rows() * weights.len() / n_expert;
                    experts.extend((0..stacked.n_rows()).step_by(m).map(|first| stacked.rows(first..first + m)));
                }
                (experts, bias.as_ref())
            }
            Op::Route { bias, .. } => (vec![], bias.as_ref()),
            Op::Attention { sinks, .. } => (vec![], sinks.as_ref()),
            _ => (vec![], None),
        };
        let vector = vector.map(|vector| find(vector).map(|vector| vector.to_f32())).transpose()?;
        Ok(Self { matrices, vector })
    }

    /// The only matrix.
    fn matrix(&self) -> &Weight {
        let [matrix] = &self.matrices[..] else { panic!("compiled with one matrix, not {}", self.matrices.len()) };
        matrix
    }

    /// The matrix `[M, K]` of an expert, and its bias `[M]`.
    fn expert(&self, expert: usize) -> (&Weight, Option<&[f32]>) {
        let matrix = &self.matrices[expert];
        let bias = self.vector.as_deref().map(|bias| &bias[expert * matrix.n_rows()..][..matrix.n_rows()]);
        (matrix, bias)
    }

    fn vector(&self) -> &[f32] {
        self.vector.as_deref().expect("compiled with the op's weights")
    }
}

/// The weight that `wanted` means, if the file has it in that shape.
fn find(weights: &dyn Weights, wanted: &WeightRef) -> Result<Weight> {
    let tensor = || wanted.name.clone();
    let weight = weights.weight(&wanted.name).ok_or_else(|| Error::MissingTensor { tensor: tensor() })?;
    let [m, k] = wanted.shape;
    let rows = wanted.rows.clone().unwrap_or(0..weight.n_rows());
    let whole_blocks = k.is_multiple_of(weight.format.block_len);
    if weight.row_len() != k || rows.len() != m || rows.end > weight.n_rows() || !whole_blocks {
        return Err(Error::TensorShape { tensor: tensor(), expected: vec![m, k], found: weight.shape });
    }
    Ok(weight.rows(rows))
}

/// Scratch numbers that a task needs at most.
fn scratch_len(graph: &Graph, limits: &Limits, isa: Option<Isa>) -> usize {
    let needs = graph.ops.iter().map(|op| match op {
        Op::MatMul { weight, .. } => ops::matmul::PANEL * weight.shape[1],
        Op::ExpertMatMul { weights, .. } => weights[0].shape[1],
        Op::Attention { .. } => limits.n_ctx,
        _ => 0,
    });
    needs.max().unwrap_or(0).max(isa.map_or(0, |isa| fast::scratch_len(graph, isa)))
}

impl Program for CpuProgram {
    fn run(&mut self, step: &Step<'_>) -> Result<Output> {
        Ok(self.run_while(step, &|| true).expect("it is wanted"))
    }

    fn submit_while(&mut self, step: &Step<'_>, is_wanted: &dyn Fn() -> bool) -> Result<Option<Ticket>> {
        Ok(self.run_while(step, is_wanted).map(Ticket::Done))
    }

    fn tensor(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let id = self.graph.find(name).filter(|&id| self.options.keep_tensors || id == self.graph.logits);
        Ok(id.map(|id| self.values.get(id).to_vec()))
    }

    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn info(&self) -> Info {
        // Tied embeddings are two ops with one matrix.
        let matrices = self.weights.iter().flat_map(|w| &w.matrices);
        let matrices: HashMap<*const u8, usize> = matrices.map(|m| (m.bytes.as_ptr(), m.bytes.len())).collect();
        let vectors = self.weights.iter().filter_map(|w| w.vector.as_deref()).map(size_of_val);
        let angles = self.angles.iter().map(|a| size_of_val(&a[..]));
        let per_thread = self.threads * scratch_len(&self.graph, &self.limits, self.isa()) * size_of::<f32>();
        let rounded = self.fast.as_ref().map_or(0, Fast::bytes);
        let memory = Memory {
            weights_bytes: (matrices.values().sum::<usize>() + vectors.sum::<usize>()) as u64,
            kv_bytes: match &self.kv {
                Kv::Reference(kv) => kv.bytes(),
                Kv::Fast(kv) => kv.bytes(),
            },
            scratch_bytes: (self.values.bytes() + angles.sum::<usize>() + per_thread + rounded) as u64,
        };
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        Info { device: format!("CPU ({} {threads})", self.threads), memory, notes: Vec::new(), counters: Vec::new() }
    }
}

impl CpuProgram {
    /// Runs a step; `None` if it was given up, since it was not wanted any more: a prompt's can last for seconds.
    fn run_while(&mut self, step: &Step<'_>, is_wanted: &dyn Fn() -> bool) -> Option<Output> {
        check_step(step, &self.graph, &self.limits);
        let rows: Vec<Row> = step.rows.iter().map(|row| Row { token: self.known_token(row.token), ..*row }).collect();
        let step = &Step { rows: &rows, ..*step };
        self.values.begin(step);
        for (rope, angles) in self.graph.ropes.iter().zip(&mut self.angles) {
            for (row, angles) in step.rows.iter().zip(angles.chunks_exact_mut(rope.inv_freq.len())) {
                ops::rope::angles(rope, row.pos, angles);
            }
        }
        self.read_ahead.begin_step();
        let groups = std::mem::take(&mut self.groups);
        let mut is_whole = true;
        for (g, group) in groups.iter().enumerate() {
            is_whole = is_wanted();
            if !is_whole {
                break;
            }
            self.read_ahead.begin_group(g);
            match self.graph.ops[group[0]] {
                Op::MatMul { .. } if self.fast.is_some() => self.run_products(g, group),
                Op::ExpertMatMul { .. } if self.fast.is_some() => self.run_experts(group),
                Op::Attention { .. } if self.fast.is_some() => self.run_attention(group[0], step),
                _ => self.run_op(group[0], step),
            }
        }
        self.groups = groups;
        if !is_whole {
            return None;
        }
        let logits = self.values.get(self.graph.logits);
        let mut chosen = vec![None; logits.len() / self.graph.n_vocab];
        let each = logits.chunks_exact(self.graph.n_vocab).zip(&mut chosen);
        match step.want {
            Want::Nothing => return Some(Output::Nothing),
            Want::Logits => return Some(Output::Logits(logits.to_vec())),
            Want::Argmax => {
                let n_parts = self.graph.n_vocab.div_ceil(VOCAB_PART);
                let mut largest = vec![draw::Largest::default(); n_parts * chosen.len()];
                let parts = logits.chunks_exact(self.graph.n_vocab).flat_map(|row| row.chunks(VOCAB_PART).enumerate());
                self.pool.each(parts.zip(&mut largest).collect(), |((i, logits), largest)| {
                    *largest = draw::Largest::of(logits, i * VOCAB_PART);
                });
                for (chosen, parts) in chosen.iter_mut().zip(largest.chunks_exact(n_parts)) {
                    *chosen = parts.iter().copied().reduce(draw::Largest::or).and_then(draw::Largest::token);
                }
            }
            Want::Draw(draws) => {
                self.pool.each(each.zip(draws).collect(), |((logits, chosen), draw)| *chosen = draw.choose(logits));
            }
        }
        self.chosen.clone_from(&chosen);
        Some(Output::Tokens(chosen))
    }

    /// The instruction set of the SIMD kernels, if they are what computes.
    fn isa(&self) -> Option<Isa> {
        self.fast.as_ref().map(|fast| fast.isa)
    }

    /// The token itself, where a row says that the step before chose it.
    fn known_token(&self, token: u32) -> u32 {
        match token.checked_sub(CHOSEN) {
            None => token,
            // What follows from a row without a token is not defined; any token will do.
            Some(i) => self.chosen[i as usize].unwrap_or(0),
        }
    }

    /// Runs op i on all rows of the step.
    fn run_op(&mut self, i: usize, step: &Step<'_>) {
        let isa = self.isa();
        let Self { graph, weights, values, angles, kv, pool, .. } = self;
        let (op, weights) = (&graph.ops[i], &weights[i]);
        let id = ValueId(i as u32);
        let width = graph.value(id).width;
        let mut buffer = values.take(id);
        let out = &mut buffer[..values.len(id)];
        match op {
            Op::Embed { scale, .. } => pool.chunks(out, width, |t, out, _| {
                ops::embed::embed(weights.matrix(), step.rows[t].token, *scale, out);
            }),
            Op::RmsNorm { x, eps, .. } => {
                let x = values.get(*x);
                pool.chunks(out, width, |t, out, _| {
                    let (x, weight) = (&x[t * width..][..width], weights.vector());
                    match isa {
                        Some(isa) => elementwise::rms_norm(isa, x, weight, *eps, out),
                        None => ops::rms_norm::rms_norm(x, weight, *eps, out),
                    }
                });
            }
            Op::MatMul { x, .. } => {
                let (x, matrix, bias) = (values.get(*x), weights.matrix(), weights.vector.as_deref());
                pool.columns(out, width, MATMUL_ROWS, |y, scratch| ops::matmul::matmul(matrix, bias, x, y, scratch));
            }
            Op::Rope { x, head_dim, rope } => {
                let (x, kind, n_pairs) = (values.get(*x), graph.ropes[*rope].kind, graph.ropes[*rope].inv_freq.len());
                let angles = &angles[*rope];
                pool.chunks(out, width, |t, out, _| {
                    ops::rope::rope(kind, &angles[t * n_pairs..][..n_pairs], &x[t * width..][..width], *head_dim, out);
                });
            }
            Op::StoreKv { layer, k, v } => match (kv, isa) {
                (Kv::Fast(kv), Some(isa)) => kv.store_step(isa, *layer, step, values.get(*k), values.get(*v)),
                (Kv::Reference(kv), None) => kv.store_step(*layer, step, values.get(*k), values.get(*v)),
                _ => unreachable!("made together"),
            },
            Op::Attention { q, spec, .. } => {
                let Kv::Reference(kv) = kv else { unreachable!("the fast path has its own attention") };
                let q = values.get(*q);
                pool.chunks(out, spec.head_dim, |i, out, scratch| {
                    let (t, head) = (i / spec.n_head, i % spec.n_head);
                    let Row { pos, seq, .. } = step.rows[t];
                    let sink = weights.vector.as_ref().map(|sinks| sinks[head]);
                    let context = Context { kv, pages: step.pages[seq as usize], pos, sink };
                    let q = &q[i * spec.head_dim..][..spec.head_dim];
                    ops::attention::attention(spec, head, q, context, out, scratch);
                });
            }
            Op::Route { x, gating, scale, .. } => {
                let (n_expert, x, bias) = (graph.value(*x).width, values.get(*x), weights.vector.as_deref());
                pool.chunks(out, width, |t, out, _| {
                    ops::route::route(&x[t * n_expert..][..n_expert], bias, *gating, *scale, out);
                });
            }
            Op::ExpertMatMul { x, route, n_used, .. } => {
                let (first, _) = weights.expert(0);
                let (k, m) = (first.row_len(), first.n_rows());
                // A row of x serves one expert, or all.
                let slots_each = n_used * k / graph.value(*x).width;
                let (x, route) = (values.get(*x), values.get(*route));
                pool.chunks(out, m, |slot, out, scratch| {
                    let expert = route[slot / n_used * 2 * n_used + slot % n_used] as usize;
                    let (matrix, bias) = weights.expert(expert);
                    let x = &x[slot / slots_each * k..][..k];
                    ops::expert_matmul::expert_matmul(matrix, bias, x, out, scratch);
                });
            }
            Op::ExpertSum { x, route, n_used } => {
                let (x, route) = (values.get(*x), values.get(*route));
                pool.chunks(out, width, |t, out, _| {
                    let weights = &route[(2 * t + 1) * n_used..][..*n_used];
                    ops::expert_sum::expert_sum(&x[t * n_used * width..][..n_used * width], weights, out);
                });
            }
            Op::RowGate { x, gate } => {
                let (x, gate) = (values.get(*x), values.get(*gate));
                pool.chunks(out, width, |t, out, _| ops::row_gate::row_gate(&x[t * width..][..width], gate[t], out));
            }
            Op::Gated { gate, up, act } => {
                let (gate, up) = (values.get(*gate), values.get(*up));
                one_by_one(pool, out, |range, out| match isa {
                    Some(isa) => elementwise::gated(isa, *act, &gate[range.clone()], &up[range], out),
                    None => ops::gated::gated(*act, &gate[range.clone()], &up[range], out),
                });
            }
            Op::Add { a, b } => {
                let (a, b) = (values.get(*a), values.get(*b));
                one_by_one(pool, out, |range, out| match isa {
                    Some(isa) => elementwise::add(isa, &a[range.clone()], &b[range], out),
                    None => ops::add::add(&a[range.clone()], &b[range], out),
                });
            }
            Op::OutputRows { x } => ops::output_rows::output_rows(values.get(*x), width, step.outputs, out),
            Op::Scale { x, factor } => {
                let x = values.get(*x);
                one_by_one(pool, out, |range, out| ops::scale::scale(*factor, &x[range], out));
            }
            Op::Softcap { x, cap } => {
                let x = values.get(*x);
                one_by_one(pool, out, |range, out| match isa {
                    Some(isa) => elementwise::softcap(isa, *cap, &x[range], out),
                    None => ops::softcap::softcap(*cap, &x[range], out),
                });
            }
        }
        values.put(id, buffer);
    }
}

/// Runs an op that treats each number by itself; `op` gets the range of the numbers and where they go.
fn one_by_one(pool: &mut Pool, out: &mut [f32], op: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    pool.chunks(out, ELEMENTS, |i, out, _| op(i * ELEMENTS..i * ELEMENTS + out.len(), out));
}
