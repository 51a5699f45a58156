//! Speed of single kernels, in bytes of weights as a file has them: `cargo bench --bench kernels [FILTER]`.
//!
//! One function a subject, one criterion group each. In the test suite every benchmark runs once.

use std::hint::black_box;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halfbyte::backend::cpu::{self, CpuProgram, Isa, Kernels, Options};
use halfbyte::backend::{Limits, PAGE_LEN, Program, Row, Step, Want, Weights};
use halfbyte::graph::GraphBuilder;
use halfbyte::quant::{ALL, Format, SharedBytes, Weight};

const ROW_LEN: usize = 2048;
const N_ROWS: usize = 4096;

/// Rows of a format, many megabytes: they come from memory, as weights do.
fn rows(format: &Format) -> Vec<u8> {
    let weights: Vec<f32> = (0..ROW_LEN).map(|i| (i as f32).sin()).collect();
    let mut row = vec![0; format.bytes(ROW_LEN)];
    (format.quantize)(&weights, None, &mut row);
    row.repeat(N_ROWS)
}

/// Exact dequantization on one core. A row at a time, as the CPU back end does: the numbers stay in the first-level
/// cache.
fn dequantize(c: &mut Criterion) {
    let mut group = c.benchmark_group("dequantize");
    for format in ALL {
        let rows = rows(format);
        let mut out = vec![0.0; ROW_LEN];
        group.throughput(Throughput::Bytes(rows.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                for row in rows.chunks_exact(format.bytes(ROW_LEN)) {
                    (format.dequantize)(black_box(row), &mut out);
                    black_box(&mut out);
                }
            });
        });
    }
}

/// Quantization on one core, with an importance for each column, in bytes of f32.
fn quantize(c: &mut Criterion) {
    const LEN: usize = 16 * ROW_LEN;
    let mut group = c.benchmark_group("quantize");
    let weights: Vec<f32> = (0..LEN).map(|i| ((i * i) as f32).sin()).collect();
    let importance: Vec<f32> = (0..ROW_LEN).map(|i| (i as f32).cos().abs()).collect();
    for format in ALL {
        let mut blocks = vec![0; format.bytes(LEN)];
        group.throughput(Throughput::Bytes(4 * LEN as u64));
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                (format.quantize)(black_box(&weights), Some(&importance), &mut blocks);
                black_box(&mut blocks);
            });
        });
    }
}

/// Packing for the GPU on one core, a row at a time.
fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack");
    for format in ALL {
        let rows = rows(format);
        let n_blocks = ROW_LEN / format.block_len;
        let mut planes: Vec<Vec<u8>> = format.planes.iter().map(|p| vec![0; n_blocks * p.block_bytes]).collect();
        let mut planes: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
        group.throughput(Throughput::Bytes(rows.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                for row in rows.chunks_exact(format.bytes(ROW_LEN)) {
                    (format.pack)(black_box(row), &mut planes);
                    black_box(&mut planes);
                }
            });
        });
    }
}

/// One matrix, which is the table of x as well.
struct Matrix(Weight);

impl Weights for Matrix {
    fn weight(&self, _: &str) -> Option<Weight> {
        Some(self.0.clone())
    }
}

/// A product of all rows of a step with one matrix.
fn program(format: &'static Format, kernels: Kernels, n_rows: usize) -> CpuProgram {
    let shape = vec![N_ROWS, ROW_LEN];
    let matrix = Matrix(Weight { shape: shape.clone(), format, bytes: SharedBytes::new(Arc::new(rows(format))) });
    let find = |name: &str| name.ends_with(".weight").then(|| shape.clone());
    let g = GraphBuilder::new("product", &find);
    let logits = g.matmul("w", g.output_rows(g.embed("x", N_ROWS, ROW_LEN, 1.0)), N_ROWS);
    let graph = g.finish(logits).expect("a product is a graph");
    let n_pages = n_rows.div_ceil(PAGE_LEN);
    let limits = Limits { max_rows: n_rows, max_outputs: n_rows, max_seqs: 1, n_ctx: n_pages * PAGE_LEN, n_pages };
    let options = Options { kernels, ..Options::default() };
    cpu::compile(&graph, &matrix, limits, options).expect("the graph compiles")
}

/// Products on one core: with one row of x in bytes of weights, with many in multiplications.
fn product(c: &mut Criterion) {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    for (isa, format) in isas.flat_map(|isa| ALL.iter().map(move |format| (isa, *format))) {
        let mut group = c.benchmark_group(format!("product/{isa}/{format}"));
        group.sample_size(10);
        for n_rows in [1, 8, 128] {
            let mut program = program(format, Kernels::Only(isa), n_rows);
            let pages: Vec<u32> = (0..program.limits().n_pages as u32).collect();
            let rows: Vec<Row> = (0..n_rows as u32).map(|pos| Row { token: 0, pos, seq: 0 }).collect();
            let outputs: Vec<u32> = (0..n_rows as u32).collect();
            let step = Step { rows: &rows, pages: &[&pages], outputs: &outputs, want: Want::Argmax };
            group.throughput(match n_rows {
                1 => Throughput::Bytes((N_ROWS * format.bytes(ROW_LEN)) as u64),
                n_rows => Throughput::Elements((n_rows * N_ROWS * ROW_LEN) as u64),
            });
            group.bench_function(BenchmarkId::from_parameter(format!("{n_rows} rows")), |b| {
                b.iter(|| black_box(program.run(black_box(&step)).expect("the CPU computes")));
            });
        }
    }
}

criterion_group!(kernels, dequantize, quantize, pack, product);
criterion_main!(kernels);
