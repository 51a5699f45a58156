//! The GPU back end against the CPU's reference: each kernel and format over shapes, and whole graphs over variants.
//!
//! A case is a graph of a few ops over random weights. Inputs come through the graph's own embedding table in F32, so
//! that any row can be the input of any op; the same graph then runs on both back ends.

use std::collections::HashMap;
use std::sync::Arc;

use halfbyte::backend::{Limits, Output, PAGE_LEN, Program, Row, Step, Want, Weights, cpu, gpu};
use halfbyte::graph::{Activation, AttentionOptions, Graph, GraphBuilder, Rope, RopeKind, Val};
use halfbyte::quant::{self, Format, SharedBytes, Weight};

use crate::common::nmse;

/// Error of a kernel that computes in f32.
const NMSE_F32: f64 = 1e-7;
/// Error where keys and values are f16.
const NMSE_F16: f64 = 1e-5;

/// Named weights made by a case.
#[derive(Default)]
struct Made(HashMap<String, Weight>);

impl Weights for Made {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.0.get(name).cloned()
    }
}

/// A generator of numbers that look like weights and activations: mostly small, some outliers, some zeros.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn f32(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match self.next() % 64 {
            0 => 0.0,
            1 => unit * 20.0,
            _ => unit,
        }
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

impl Made {
    fn add(&mut self, name: &str, shape: &[usize], format: &'static Format, numbers: &mut Numbers) {
        let n: usize = shape.iter().product();
        let mut bytes = vec![0; format.bytes(n)];
        (format.quantize)(&numbers.vec(n), &mut bytes);
        let bytes = SharedBytes::new(Arc::new(bytes));
        self.0.insert(format!("{name}.weight"), Weight { shape: shape.to_vec(), format, bytes });
    }

    fn graph(&self, build: impl Fn(&GraphBuilder<'_>) -> Val) -> Graph {
        let shapes = |name: &str| self.0.get(name).map(|w| w.shape.clone());
        let builder = GraphBuilder::new("case", &shapes);
        let logits = build(&builder);
        builder.finish(logits).expect("the case is a graph")
    }
}

fn format(name: &str) -> &'static Format {
    quant::ALL.iter().find(|f| f.name == name).expect("a known format")
}

fn limits(max_rows: usize) -> Limits {
    Limits { max_rows, max_outputs: max_rows, max_seqs: 4, n_ctx: 512, n_pages: 64 }
}

fn on_gpu(graph: &Graph, weights: &Made, limits: Limits, options: &gpu::Options) -> gpu::GpuProgram {
    gpu::compile(graph, weights, limits, options, &mut |_, _| ()).expect("a Vulkan adapter; ./scripts/test installs one")
}

fn on_cpu(graph: &Graph, weights: &Made, limits: Limits) -> cpu::CpuProgram {
    let options = cpu::Options { threads: 2, keep_tensors: true };
    cpu::compile(graph, weights, limits, options).expect("the CPU takes any graph")
}

/// Runs rows with tokens 0.. of one sequence at positions `from`.. and returns the logits of all.
fn logits(program: &mut dyn Program, n: usize, from: usize) -> Vec<f32> {
    let pages: Vec<u32> = (0..16).map(|p| (p * 7 + 3) % 16).collect();
    let n_vocab = program.graph().n_vocab;
    let rows: Vec<Row> =
        (0..n).map(|i| Row { token: (i % n_vocab) as u32, pos: (from + i) as u32, seq: 0 }).collect();
    let outputs: Vec<u32> = (0..n as u32).collect();
    let step = Step { rows: &rows, pages: &[&pages], outputs: &outputs, want: Want::Logits };
    match program.run(&step).expect("the step runs") {
        Output::Logits(logits) => logits,
        other => panic!("asked for logits, got {other:?}"),
    }
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], limit: f64) {
    let expected: Vec<f64> = expected.iter().map(|&e| f64::from(e)).collect();
    let error = nmse(found, &expected);
    let worst = found.iter().zip(&expected).enumerate().max_by(|(_, a), (_, b)| {
        (f64::from(*a.0) - a.1).abs().total_cmp(&(f64::from(*b.0) - b.1).abs())
    });
    // Written so that NaN fails.
    assert!(error <= limit, "{what}: nmse {error:.1e} (limit {limit:.0e}), worst {worst:?}");
}

/// The variants of every kernel that this adapter can run.
fn variants() -> Vec<(&'static str, gpu::Options)> {
    let all = gpu::Options { kv: gpu::KvFormat::F32, keep_tensors: true, ..Default::default() };
    let plain = gpu::Options { fuse: false, ..all.clone() };
    let mut bare = gpu::Options { kv: gpu::KvFormat::F16, ..all.clone() };
    bare.device.subgroups = false;
    bare.device.f16 = false;
    vec![("fused", all), ("plain", plain), ("no subgroups, no f16", bare)]
}

/// y = W·x for one row and several, W of every format; tails of every kind for one of them.
#[test]
fn matmul_of_each_format() {
    let edges = [(1, 256), (2, 512), (31, 256), (33, 768), (127, 256), (257, 2048), (576, 1536)];
    for format in quant::ALL {
        let shapes = if format.name == "Q4_0" { &edges[..] } else { &edges[3..4] };
        for &(m, k) in shapes {
            let mut numbers = Numbers(m as u64);
            let mut weights = Made::default();
            weights.add("table", &[m, k], self::format("F32"), &mut numbers);
            weights.add("head", &[m, k], format, &mut numbers);
            let graph = weights.graph(|g| g.matmul("head", g.output_rows(g.embed("table", m, k, 1.0)), m));
            let mut expected = on_cpu(&graph, &weights, limits(64));
            for (variant, options) in variants() {
                let mut found = on_gpu(&graph, &weights, limits(64), &options);
                for n in [1, 2, 7, 33] {
                    let what = format!("{format} [{m}, {k}], {n} rows, {variant}");
                    assert_close(&what, &logits(&mut found, n, 0), &logits(&mut expected, n, 0), NMSE_F32);
                }
            }
        }
    }
}
