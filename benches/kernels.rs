//! Speed of single kernels, in bytes of weights as a file has them: `cargo bench --bench kernels [FILTER]`.
//!
//! One function a subject, one criterion group each. In the test suite every benchmark runs once.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halfbyte::quant::{ALL, Format};

const ROW_LEN: usize = 2048;
const N_ROWS: usize = 4096;

/// Rows of a format, many megabytes: they come from memory, as weights do.
fn rows(format: &Format) -> Vec<u8> {
    let weights: Vec<f32> = (0..ROW_LEN).map(|i| (i as f32).sin()).collect();
    let mut row = vec![0; format.bytes(ROW_LEN)];
    (format.quantize)(&weights, &mut row);
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

criterion_group!(kernels, dequantize, pack);
criterion_main!(kernels);
