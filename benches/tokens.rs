//! Tokens per second, prompt (pp) and one by one (tg), of whole models on every device that is here.
//!
//! For comparing two states of the code; `halfbyte bench` measures what is comparable to other programs. The tiny model
//! shows what a step costs besides its arithmetic; the real one is there when `./scripts/test` has fetched it.

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halfbyte::Error;
use halfbyte::engine::measure::{Run, Test};
use halfbyte::engine::{Device, EngineOptions, Loaded};

const MODELS: &[&str] = &["tests/golden/tiny/llama-q4_0.gguf", ".models/SmolLM2-135M-Instruct.Q4_1.gguf"];
const TESTS: &[(&str, Test)] = &[("pp64", Test::Prompt(64)), ("tg16", Test::Generate(16))];

fn tokens(c: &mut Criterion) {
    for (device_name, device) in [("cpu", Device::Cpu), ("gpu", Device::Gpu)] {
        for model in MODELS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(model);
            let options = EngineOptions { device: device.clone(), n_ctx: Some(64), ..EngineOptions::default() };
            if !path.is_file() {
                continue;
            }
            let (mut program, facts) = match Loaded::open(&path, &options, &mut |_, _| {}) {
                Ok(Loaded { program, facts, .. }) => (program, facts),
                Err(Error::NoAdapter { .. }) => continue,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            let mut group = c.benchmark_group(format!("{device_name}/{}", facts.model));
            group.sample_size(10);
            for &(name, test) in TESTS {
                group.throughput(Throughput::Elements(test.n_tokens() as u64));
                group.bench_function(BenchmarkId::from_parameter(name), |b| {
                    let mut run = Run::new(&mut *program, 0, test.n_tokens()).expect("the context is large enough");
                    b.iter(|| run.once(black_box(test)).expect("the device works"));
                });
            }
        }
    }
}

criterion_group!(benches, tokens);
criterion_main!(benches);
