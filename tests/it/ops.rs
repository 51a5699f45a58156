//! Each op against its formula, written here once more and in f64.
//!
//! A case is a graph around one op. Its inputs are rows of embedding tables in F32, so that a row of a step can be any
//! numbers at all; the checks take any back end that can return a named tensor.

use std::collections::HashMap;
use std::sync::Arc;

use halfbyte::backend::{Limits, Output, PAGE_LEN, Program, Row, Step, Want, Weights};
use halfbyte::graph::{Activation, AttentionOptions, Graph, GraphBuilder, Rope, RopeKind, Val};
use halfbyte::quant::{self, Format, SharedBytes, Weight};

use crate::common::nmse;
use crate::shapes::Numbers;

/// Compiles a graph so that all of its tensors can be asked for.
pub(crate) type Compile<'a> = &'a dyn Fn(&Graph, &dyn Weights, Limits) -> Box<dyn Program>;

/// Weights that a case makes.
#[derive(Default)]
pub(crate) struct Tables(HashMap<String, Weight>);

impl Weights for Tables {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.0.get(name).cloned()
    }
}

/// The format with ggml's name.
pub(crate) fn format(name: &str) -> &'static Format {
    quant::ALL.iter().find(|f| f.name == name).expect("a supported format")
}

impl Tables {
    /// A weight near to `numbers`; gives what it really holds.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], format: &'static Format, numbers: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; format.bytes(numbers.len())];
        (format.quantize)(numbers, None, &mut bytes);
        let weight = Weight { shape: shape.to_vec(), format, bytes: SharedBytes::new(Arc::new(bytes)) };
        let held = weight.to_f32();
        self.0.insert(name.into(), weight);
        held
    }

    /// A table `[n, width]` in F32, whose rows are the inputs of a case.
    pub(crate) fn input(&mut self, name: &str, n: usize, width: usize, numbers: &mut Numbers) -> Vec<f32> {
        self.add(&format!("{name}.weight"), &[n, width], format("F32"), &numbers.f32s(n * width))
    }

    /// Runs `rows` through the op that `build` makes, and gives its value. `n_vocab` is that of the inputs.
    pub(crate) fn run(
        &mut self,
        compile: Compile<'_>,
        n_vocab: usize,
        rows: &[Row],
        pages: &[&[u32]],
        build: impl Fn(&GraphBuilder<'_>) -> Val,
    ) -> Vec<f32> {
        let shapes = |name: &str| match name {
            // Every graph ends in logits; no row of them is wanted.
            "output.weight" => None,
            _ => self.0.get(name).map(|w| w.shape.clone()),
        };
        let probe = GraphBuilder::new("width", &shapes);
        let width = build(&probe).width();
        self.add("output.weight", &[n_vocab, width], format("F32"), &vec![0.0; n_vocab * width]);

        let shapes = |name: &str| self.0.get(name).map(|w| w.shape.clone());
        let g = GraphBuilder::new("one op", &shapes);
        let value = build(&g);
        let logits = g.matmul("output", g.output_rows(value), n_vocab);
        let graph = g.finish(logits).expect("the case is a graph");
        let limits = Limits {
            max_rows: rows.len(),
            max_outputs: 1,
            max_seqs: pages.len(),
            n_ctx: 1 + rows.iter().map(|r| r.pos as usize).max().expect("a step has rows"),
            n_pages: 1 + pages.iter().copied().flatten().max().map_or(0, |&p| p as usize),
        };
        let mut program = compile(&graph, self, limits);
        let output = program.run(&Step { rows, pages, outputs: &[], want: Want::Nothing });
        assert_eq!(output.expect("the step runs"), Output::Nothing);
        let name = &graph.value(value.id()).name;
        program.tensor(name).expect("the device works").unwrap_or_else(|| panic!("{name} was kept"))
    }
}

/// T rows with the tokens 0, 1, …, of one sequence.
pub(crate) fn step_of(n: usize) -> Vec<Row> {
    (0..n as u32).map(|i| Row { token: i, pos: i, seq: 0 }).collect()
}

pub(crate) fn pages_for(n_ctx: usize) -> Vec<u32> {
    (0..n_ctx.div_ceil(PAGE_LEN) as u32).collect()
}

pub(crate) fn assert_near(what: &str, found: &[f32], expected: &[f64], limit: f64) {
    let error = nmse(found, expected);
    assert!(error <= limit, "{what}: nmse {error:.1e} (limit {limit:.0e})");
}

pub(crate) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// embed: rows of a table in any format, scaled.
pub(crate) fn check_embed(compile: Compile<'_>, format: &'static Format, width: usize, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let (n_vocab, scale) = (70, 25.298_222);
    let mut tables = Tables::default();
    let table = tables.add("x.weight", &[n_vocab, width], format, &numbers.f32s(n_vocab * width));
    let rows: Vec<Row> = (0..33).map(|i| Row { token: numbers.below(n_vocab) as u32, pos: i, seq: 0 }).collect();
    let found = tables.run(compile, n_vocab, &rows, &[&pages_for(33)], |g| g.embed("x", n_vocab, width, scale));
    let expected: Vec<f64> = rows
        .iter()
        .flat_map(|row| &table[row.token as usize * width..][..width])
        .map(|&w| f64::from(w) * f64::from(scale))
        .collect();
    assert_near(&format!("embed {format} [{n_vocab}, {width}]"), &found, &expected, limit);
}

/// rms_norm: over a row, or over each head of it.
pub(crate) fn check_rms_norm(compile: Compile<'_>, t: usize, heads: usize, width: usize, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let x = tables.input("x", t, heads * width, &mut numbers);
    // No denormals: where there is no other weight, their own rounding would be all of the error.
    let weights: Vec<f32> = (0..width).map(|_| 1.0 + numbers.f32()).collect();
    let w = tables.add("norm.weight", &[width], format("F32"), &weights);
    let eps = 1e-5f32;
    let found = tables.run(compile, t, &step_of(t), &[&pages_for(t)], |g| {
        g.rms_norm("norm", g.embed("x", t, heads * width, 1.0).heads(heads), eps)
    });
    let expected: Vec<f64> = f64s(&x)
        .chunks(width)
        .flat_map(|x| {
            let mean_square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let root = (mean_square + f64::from(eps)).sqrt();
            x.iter().zip(&w).map(move |(x, &w)| x / root * f64::from(w)).collect::<Vec<_>>()
        })
        .collect();
    assert_near(&format!("rms_norm [{t}, {heads} of {width}]"), &found, &expected, limit);
}

/// The squared errors of products, and what they are in proportion to.
#[derive(Default)]
pub(crate) struct ProductError {
    error: f64,
    power: f64,
}

impl ProductError {
    /// A product of `x` and `w`, plus `bias`, that was `found`.
    ///
    /// Its power is that of its terms if each number of x were the largest of its 256: kernels that round x do so in
    /// proportion to that, whatever the other numbers are. And errors do not shrink where terms cancel by chance.
    pub(crate) fn add(&mut self, found: f32, x: &[f64], w: &[f64], bias: f64) {
        let sum: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
        self.error += (f64::from(found) - sum - bias).powi(2);
        for (x, w) in x.chunks(256).zip(w.chunks(256)) {
            let largest = x.iter().map(|x| x * x).fold(0.0, f64::max);
            self.power += largest * w.iter().map(|w| w * w).sum::<f64>();
        }
        // Numbers below the normal ones keep fewer digits.
        self.power += bias.powi(2) + f64::from(f32::MIN_POSITIVE).powi(2);
    }

    pub(crate) fn check(&self, what: &str, limit: f64) {
        let error = self.error / self.power;
        assert!(error <= limit, "{what}: error {error:.1e} (limit {limit:.0e})");
    }
}

/// matmul: any format, all rows of the weight or those of a range, with and without bias.
pub(crate) fn check_matmul(
    compile: Compile<'_>,
    format_of_weight: &'static Format,
    t: usize,
    [m, k]: [usize; 2],
    seed: u64,
    limit: f64,
) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let x = f64s(&tables.input("x", t, k, &mut numbers));
    let w = f64s(&tables.add("blk.0.w.weight", &[m, k], format_of_weight, &numbers.f32s(m * k)));
    let bias = seed.is_multiple_of(2).then(|| f64s(&tables.add("blk.0.y.bias", &[m], format("F32"), &numbers.f32s(m))));
    // A third of the seeds takes a part of the rows, as a file with fused q, k, v needs it; a bias is of all.
    let range = if seed.is_multiple_of(3) && bias.is_none() { m / 3..m - m / 4 } else { 0..m };
    let found = tables.run(compile, t, &step_of(t), &[&pages_for(t)], |g| {
        g.block(0).matmul_rows("w", "y", g.embed("x", t, k, 1.0), m, range.clone())
    });
    let mut error = ProductError::default();
    for (found, x) in found.chunks(range.len()).zip(x.chunks(k)) {
        for (found, m) in found.iter().zip(range.clone()) {
            error.add(*found, x, &w[m * k..][..k], bias.as_ref().map_or(0.0, |bias| bias[m]));
        }
    }
    error.check(&format!("matmul {format_of_weight} [{t}, {k}] · [{m}, {k}]ᵀ rows {range:?}"), limit);
}

/// rope: both kinds, all or some of the elements, at large positions too.
pub(crate) fn check_rope(
    compile: Compile<'_>,
    kind: RopeKind,
    heads: usize,
    head_dim: usize,
    n_rot: usize,
    limit: f64,
) {
    let mut numbers = Numbers(head_dim as u64);
    let positions = [0, 1, 2, 511, 4_095, 32_767];
    let t = positions.len();
    let mut tables = Tables::default();
    let x = f64s(&tables.input("x", t, heads * head_dim, &mut numbers));
    let rows: Vec<Row> = positions.iter().enumerate().map(|(i, &pos)| Row { token: i as u32, pos, seq: 0 }).collect();
    let inv_freq: Vec<f64> = (0..n_rot / 2).map(|i| 1e6f64.powf(-2.0 * i as f64 / n_rot as f64)).collect();
    let rope = Rope { kind, inv_freq: inv_freq.clone(), scale: 1.25 };
    let found = tables.run(compile, t, &rows, &[&vec![0; 1_024]], |g| {
        g.block(0).rope(g.embed("x", t, heads * head_dim, 1.0).heads(heads), g.rope(rope.clone()))
    });
    let mut expected = x;
    for (head, i) in expected.chunks_mut(head_dim).zip(0..) {
        let pos = f64::from(positions[i / heads]);
        for (pair, inv_freq) in inv_freq.iter().enumerate() {
            let (a, b) = match kind {
                RopeKind::Norm => (2 * pair, 2 * pair + 1),
                RopeKind::Neox => (pair, pair + n_rot / 2),
            };
            // A complex number times 1.25 e^(iθ).
            let (re, im, angle) = (head[a], head[b], pos * inv_freq);
            head[a] = 1.25 * (re * angle.cos() - im * angle.sin());
            head[b] = 1.25 * (re * angle.sin() + im * angle.cos());
        }
    }
    assert_near(&format!("rope {kind:?} {n_rot} of {head_dim}, {heads} heads"), &found, &expected, limit);
}

/// What an attention case is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionCase {
    /// Positions of each of two sequences.
    pub(crate) lens: [usize; 2],
    pub(crate) n_head: usize,
    pub(crate) n_head_kv: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
    pub(crate) softcap: Option<f32>,
    pub(crate) sinks: bool,
}

/// attention and store_kv: two sequences with mixed rows in one step, on scattered pages.
pub(crate) fn check_attention(compile: Compile<'_>, case: AttentionCase, seed: u64, limit: f64) {
    let AttentionCase { lens, n_head, n_head_kv, head_dim: dh, window, softcap, sinks } = case;
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let n = lens[0] + lens[1];
    let q = f64s(&tables.input("q", n, n_head * dh, &mut numbers));
    let k = f64s(&tables.input("k", n, n_head_kv * dh, &mut numbers));
    let v = f64s(&tables.input("v", n, n_head_kv * dh, &mut numbers));
    let logits = f64s(&tables.add("blk.0.attn_sinks.weight", &[n_head], format("F32"), &numbers.f32s(n_head)));
    // The token is the row in the tables; the order of the rows in the step is any.
    let all: Vec<Row> = (0..n)
        .map(|i| {
            let seq = usize::from(i >= lens[0]);
            Row { token: i as u32, pos: (i - seq * lens[0]) as u32, seq: seq as u32 }
        })
        .collect();
    let rows: Vec<Row> = numbers.permutation(n).iter().map(|&i| all[i as usize]).collect();
    let n_pages = lens.map(|len| len.div_ceil(PAGE_LEN));
    let pages = numbers.permutation(n_pages[0] + n_pages[1]);
    let (first, second) = pages.split_at(n_pages[0]);
    let scale = 1.0 / (dh as f32).sqrt();
    let options = AttentionOptions { scale, window, softcap, sinks: sinks.then_some("attn_sinks") };
    let found = tables.run(compile, n, &rows, &[first, second], |g| {
        let input = |name, heads: usize| g.embed(name, n, heads * dh, 1.0).heads(heads);
        g.block(0).attention(input("q", n_head), input("k", n_head_kv), input("v", n_head_kv), options)
    });

    let mut expected = Vec::new();
    for row in &rows {
        let start = row.token as usize - row.pos as usize;
        let first = window.map_or(0, |w| (row.pos as usize + 1).saturating_sub(w));
        for head in 0..n_head {
            let head_kv = head * n_head_kv / n_head;
            let q = &q[(row.token as usize * n_head + head) * dh..][..dh];
            let kv = |table: &[f64], pos: usize| table[((start + pos) * n_head_kv + head_kv) * dh..][..dh].to_vec();
            let scores: Vec<f64> = (first..=row.pos as usize)
                .map(|pos| {
                    let score = q.iter().zip(kv(&k, pos)).map(|(q, k)| q * k).sum::<f64>() * f64::from(scale);
                    softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                })
                .collect();
            let sink = sinks.then(|| logits[head]);
            let max = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - max).exp());
            let mut out = vec![0.0; dh];
            for (weight, pos) in weights.iter().zip(first..) {
                out.iter_mut().zip(kv(&v, pos)).for_each(|(out, v)| *out += weight / sum * v);
            }
            expected.extend(out);
        }
    }
    assert_near(&format!("attention {case:?}"), &found, &expected, limit);
}

/// gated, add, scale and softcap: number by number.
pub(crate) fn check_elementwise(compile: Compile<'_>, t: usize, width: usize, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let a = f64s(&tables.input("a", t, width, &mut numbers));
    let b = f64s(&tables.input("b", t, width, &mut numbers));
    type Build = fn(&GraphBuilder<'_>, Val, Val) -> Val;
    type Formula = fn(f64, f64) -> f64;
    let cases: [(&str, Build, Formula); 6] = [
        ("silu", |g, a, b| g.block(0).gated(a, b, Activation::Silu), |a, b| a / (1.0 + (-a).exp()) * b),
        (
            "gelu",
            |g, a, b| g.block(0).gated(a, b, Activation::Gelu),
            |a, b| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (a + 0.044715 * a.powi(3));
                0.5 * a * (1.0 + inner.tanh()) * b
            },
        ),
        (
            "swiglu_oai",
            |g, a, b| g.block(0).gated(a, b, Activation::SwigluOai),
            |a, b| a.min(7.0) / (1.0 + (-1.702 * a.min(7.0)).exp()) * (b.clamp(-7.0, 7.0) + 1.0),
        ),
        ("add", |g, a, b| g.add(a, b), |a, b| a + b),
        ("scale", |g, a, _| g.scale(a, -1.5), |a, _| -1.5 * a),
        ("softcap", |g, a, _| g.softcap(a, 30.0), |a, _| 30.0 * (a / 30.0).tanh()),
    ];
    for (name, build, formula) in cases {
        let found = tables.run(compile, t, &step_of(t), &[&pages_for(t)], |g| {
            build(g, g.embed("a", t, width, 1.0), g.embed("b", t, width, 1.0))
        });
        let expected: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| formula(a, b)).collect();
        let what = format!("{name} [{t}, {width}]");
        let (found, expected) = normal(&what, &found, &expected);
        assert_near(&what, &found, &expected, limit);
    }
}

/// The results that are normal numbers in f32. Below those there are steps instead of bits, so that a row of few of them has no
/// error in proportion: they may be off by what a rounded factor of 64 makes of a step.
fn normal(what: &str, found: &[f32], expected: &[f64]) -> (Vec<f32>, Vec<f64>) {
    let step = f64::from(f32::from_bits(1));
    let is_normal = |e: f64| e == 0.0 || e.abs() >= f64::from(f32::MIN_POSITIVE);
    let (normal, denormal): (Vec<_>, Vec<_>) = found.iter().zip(expected).partition(|(_, e)| is_normal(**e));
    for (f, e) in denormal {
        let error = (f64::from(*f) - e).abs();
        assert!(error <= 64.0 * step, "{what}: {f:e} instead of {e:e}");
    }
    normal.into_iter().unzip()
}

/// output_rows and argmax: the rows that were asked for, and of equal logits the first.
pub(crate) fn check_outputs(compile: Compile<'_>, n_vocab: usize, seed: u64) {
    let t = 5;
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let width = 32;
    let mut w: Vec<f32> = numbers.f32s(n_vocab * width).iter().map(|w| w.clamp(-0.9, 0.9)).collect();
    let mut table = numbers.f32s(n_vocab * width);
    // Two tokens have the same weights, and row 2 of the step wants just these most: of equal logits the first counts.
    let twins = [n_vocab / 3, n_vocab - 1];
    for twin in twins {
        w[twin * width..(twin + 1) * width].fill(1.0);
    }
    table[2 * width..3 * width].fill(3.0);
    tables.add("output.weight", &[n_vocab, width], format("F32"), &w);
    tables.add("x.weight", &[n_vocab, width], format("F32"), &table);

    let shapes = |name: &str| tables.0.get(name).map(|w| w.shape.clone());
    let g = GraphBuilder::new("outputs", &shapes);
    let x = g.embed("x", n_vocab, width, 1.0);
    let logits = g.matmul("output", g.output_rows(x), n_vocab);
    let graph = g.finish(logits).expect("the case is a graph");
    let limits = Limits { max_rows: t, max_outputs: 3, max_seqs: 1, n_ctx: t, n_pages: 1 };
    let mut program = compile(&graph, &tables, limits);

    let (rows, outputs) = (step_of(t), [0, 2, 4]);
    let step = |want| Step { rows: &rows, pages: &[&[0]], outputs: &outputs, want };
    let Output::Logits(logits) = program.run(&step(Want::Logits)).expect("the step runs") else {
        panic!("logits were wanted");
    };
    assert_eq!(logits.len(), outputs.len() * n_vocab);
    let kept = program.tensor("output_rows.out").expect("the device works").expect("all tensors are kept");
    let expected: Vec<f32> = outputs.iter().flat_map(|&i| &table[i as usize * width..][..width]).copied().collect();
    assert_eq!(kept, expected);
    let tops: Vec<Option<u32>> = logits
        .chunks(n_vocab)
        .map(|row| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().position(|&x| x == max).map(|i| i as u32)
        })
        .collect();
    assert_eq!(tops[1], Some(twins[0] as u32));
    assert_eq!(program.run(&step(Want::Argmax)).expect("the step runs"), Output::Tokens(tops));
}
