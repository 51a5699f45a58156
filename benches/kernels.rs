//! Speed of single kernels, in bytes of weights as a file has them: `cargo bench --bench kernels [FILTER]`.
//!
//! One function a subject, one criterion group each. In the test suite every benchmark runs once.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halfbyte::quant::ALL;

/// Exact dequantization on one core. A row's worth of weights at a time, as the CPU back end does: the numbers stay in
/// the first-level cache, the blocks come from memory.
fn dequantize(c: &mut Criterion) {
    const ROW_LEN: usize = 2048;
    const N_ROWS: usize = 4096;
    let mut group = c.benchmark_group("dequantize");
    for format in ALL {
        let weights: Vec<f32> = (0..ROW_LEN).map(|i| (i as f32).sin()).collect();
        let row_bytes = format.bytes(ROW_LEN);
        let mut row = vec![0; row_bytes];
        (format.quantize)(&weights, &mut row);
        let rows = row.repeat(N_ROWS);
        let mut out = vec![0.0; ROW_LEN];
        group.throughput(Throughput::Bytes(rows.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| {
                for row in rows.chunks_exact(row_bytes) {
                    (format.dequantize)(black_box(row), &mut out);
                    black_box(&mut out);
                }
            });
        });
    }
}

criterion_group!(kernels, dequantize);
criterion_main!(kernels);
