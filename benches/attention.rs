//! Speed of attention on the CPU, in bytes of keys and values: `cargo bench --bench attention [FILTER]`.
//!
//! A graph of nothing but attention layers, with the heads of SmolLM2-135M: together they hold tens of megabytes, so that keys
//! and values come from memory, as those of a model do between which its weights are read. Threads: one, and all.

use std::hint::black_box;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halfbyte::backend::cpu::{self, CpuProgram, Options};
use halfbyte::backend::{KvFormat, Limits, PAGE_LEN, Program, Row, Step, Want, Weights};
use halfbyte::graph::{AttentionOptions, Graph, GraphBuilder};
use halfbyte::quant::{ALL, SharedBytes, Weight};

const N_LAYER: usize = 30;
const N_HEAD: usize = 9;
const N_HEAD_KV: usize = 3;
const HEAD_DIM: usize = 64;
const N_VOCAB: usize = 64;
/// Positions before the row that is measured.
const DEPTH: usize = 2048;
/// Rows of a prompt.
const PROMPT: usize = 512;

/// One table of numbers for queries, keys and values alike, and a matrix of logits that no step asks for.
struct Tables;

impl Weights for Tables {
    fn weight(&self, name: &str) -> Option<Weight> {
        let format = ALL.iter().find(|format| format.name == "F32")?;
        let shape = shape(name)?;
        let numbers = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin());
        let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        Some(Weight { shape, format, bytes: SharedBytes::new(Arc::new(bytes)) })
    }
}

fn shape(name: &str) -> Option<Vec<usize>> {
    let heads = match name {
        "q.weight" | "output.weight" => N_HEAD,
        "k.weight" | "v.weight" => N_HEAD_KV,
        _ => return None,
    };
    Some(vec![N_VOCAB, heads * HEAD_DIM])
}

fn graph() -> Graph {
    let g = GraphBuilder::new("attention", &shape);
    let input = |name, heads| g.embed(name, N_VOCAB, heads * HEAD_DIM, 1.0).heads(heads);
    let (mut x, k, v) = (input("q", N_HEAD), input("k", N_HEAD_KV), input("v", N_HEAD_KV));
    let options = AttentionOptions { scale: 0.125, window: None, softcap: None, sinks: None };
    for il in 0..N_LAYER {
        x = g.block(il).attention(x.heads(N_HEAD), k, v, options);
    }
    let logits = g.matmul("output", g.output_rows(x), N_VOCAB);
    g.finish(logits).expect("the layers are a graph")
}

/// Runs the positions `start..end` of a sequence in one step.
fn run(program: &mut CpuProgram, pages: &[u32], start: usize, end: usize) {
    let row = |pos| Row { token: (pos % N_VOCAB) as u32, pos: pos as u32, seq: 0 };
    let rows: Vec<Row> = (start..end).map(row).collect();
    let step = Step { rows: &rows, pages: &[pages], outputs: &[], want: Want::Nothing };
    black_box(program.run(black_box(&step)).expect("the CPU computes"));
}

fn attention(c: &mut Criterion) {
    let (graph, all) = (graph(), available_parallelism().map_or(1, NonZero::get));
    for threads in if all > 1 { vec![1, all] } else { vec![1] } {
        for kv in [KvFormat::F16, KvFormat::Q8_0, KvFormat::F32] {
            let n_pages = DEPTH / PAGE_LEN + 1;
            let limits = Limits { max_rows: PROMPT, max_outputs: 1, max_seqs: 1, n_ctx: n_pages * PAGE_LEN, n_pages };
            let options = Options { threads, kv, ..Options::default() };
            let mut program = cpu::compile(&graph, &Tables, limits, options).expect("the graph compiles");
            let pages: Vec<u32> = (0..n_pages as u32).collect();
            let id = |what: &str| BenchmarkId::from_parameter(format!("{what}, {kv}, {threads} threads"));
            let mut group = c.benchmark_group("attention");
            group.sample_size(20);

            group.throughput(Throughput::Elements(PROMPT as u64));
            group.bench_function(id("prompt of 512"), |b| b.iter(|| run(&mut program, &pages, 0, PROMPT)));

            (0..DEPTH).step_by(PROMPT).for_each(|start| run(&mut program, &pages, start, start + PROMPT));
            // All pages are full but the last one, which the row itself opens.
            run(&mut program, &pages, DEPTH, DEPTH + 1);
            let bytes = program.info().memory.kv_bytes * (n_pages as u64 - 1) / n_pages as u64;
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(id("row at 2048"), |b| b.iter(|| run(&mut program, &pages, DEPTH, DEPTH + 1)));
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
