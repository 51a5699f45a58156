//! Cooperative matrices: right where an adapter has them, given up with a reason where it has not or computes wrongly.
//!
//! A software adapter uses them only when it is told to, so these tests do. Mesa's software driver has them since 26.1; on
//! an adapter without them the same tests run what stands in for them.

use super::*;
use halfbyte::backend::gpu::Matrices;

/// Error of a matmul whose operands are rounded to the 11 bits of f16: in [0.5, 1) the rounding has a mean square of
/// 2⁻²² / 12, and for numbers spread evenly over [-1, 1] that makes 3.4e-8 of the product for each operand. Sums are f32.
const NMSE_MATRICES: f64 = 2e-7;

fn options(matrices: Matrices) -> gpu::Options {
    let mut options = gpu::Options { kv: gpu::KvFormat::F32, ..Default::default() };
    options.device.matrices = matrices;
    options
}

/// Whether the best adapter, which tests use, has matrices.
fn offered() -> bool {
    gpu::adapters().first().expect("a Vulkan adapter; ./scripts/test installs one").matrix_side.is_some()
}

/// Whether the program says that it uses them.
fn used(program: &gpu::GpuProgram) -> bool {
    let notes = program.info().notes.join("\n");
    let used = notes.contains(" cooperative matrices, tested with ");
    assert_eq!(used, offered(), "{notes}");
    used
}

#[test]
fn matmul_of_each_format() {
    let edges = [(2, 96), (65, 160), (191, 576)];
    for format in quant::ALL {
        let shapes = if format.name == "Q4_1" { &edges[..] } else { &[(70, 256)] };
        for &(m, k) in shapes {
            let mut numbers = Numbers(m as u64);
            let mut weights = Made::default();
            weights.add("table", &[m, k], self::format("F32"), &mut numbers);
            weights.add("head", &[m, k], format, &mut numbers);
            // Beyond what f16 holds, so that only scaled operands come out right.
            let graph = weights.graph(|g| g.matmul("head", g.output_rows(g.embed("table", m, k, 1e6)), m));
            let mut expected = on_cpu(&graph, &weights, limits(80));
            let mut found = on_gpu(&graph, &weights, limits(80), &options(Matrices::On));
            let limit = if used(&found) { NMSE_MATRICES } else { NMSE_F32 };
            for n in [2, 33, 77] {
                let what = format!("{format} [{m}, {k}], {n} rows");
                assert_close(&what, &logits(&mut found, n, 0), &logits(&mut expected, n, 0), limit);
            }
        }
    }
}

#[test]
fn blocks_of_all_kinds() {
    for (i, block) in BLOCKS.iter().enumerate() {
        let weights = block.weights(&mut Numbers(100 + i as u64));
        let graph = weights.graph(|g| block.build(g));
        let mut expected = on_cpu(&graph, &weights, limits(64));
        let mut found = on_gpu(&graph, &weights, limits(64), &options(Matrices::On));
        // Seven matmuls after one another, and what is f16 in between is no worse than keys and values that are.
        let limit = if used(&found) { NMSE_F16 } else { NMSE_F32 };
        for (n, from) in [(64, 0), (33, 64)] {
            let what = format!("{block:?}, {n} rows from {from}");
            assert_close(&what, &logits(&mut found, n, from), &logits(&mut expected, n, from), limit);
        }
    }
}

#[test]
fn real_models_are_golden() {
    for (file, name, n_ctx) in [(SMOLLM2, "smollm2-long", 320), (GEMMA3, "gemma3-moon", 64)] {
        let model = golden::load(&common::real_model(file));
        let options = gpu::Options { kv: gpu::KvFormat::default(), ..options(Matrices::On) };
        let mut program = compile(&model, golden::limits(n_ctx, 256), &options);
        used(&program);
        golden::check_real(&mut program, name, 0.03);
    }
}

#[test]
fn a_device_that_fails_the_self_test_uses_other_kernels() {
    let model = golden::tiny("llama-q4_0");
    let mut program = compile(&model, golden::limits(64, 32), &options(Matrices::Distrust));
    let notes = program.info().notes.join("\n");
    let expected =
        if offered() { " cooperative matrices are not used: the self-test gave " } else { "no cooperative matrices" };
    assert!(notes.contains(expected), "{notes}");
    let &(name, to_llama_cpp) = TINY.iter().find(|(name, _)| *name == "llama-q4_0").expect("one of the tiny models");
    golden::check_tiny(&mut program, name, 1e-8, to_llama_cpp.max(1e-8));
    let device = options(Matrices::Distrust).device;
    assert!(gpu::matrices(&device).expect("the adapter can be opened").contains(expected));
}

/// They are made of plain sums there, which the plain kernel does without the detour.
#[test]
fn a_software_adapter_does_not_use_them_unasked() {
    let adapter = gpu::adapters().into_iter().find(|adapter| adapter.kind == gpu::AdapterKind::Software);
    let Some(adapter) = adapter else { return };
    let device = gpu::DeviceOptions { name: Some(adapter.name), ..Default::default() };
    let note = gpu::matrices(&device).expect("the adapter can be opened");
    let expected = if adapter.matrix_side.is_some() { "are not used: made of plain sums" } else { "no cooperative" };
    assert!(note.contains(expected), "{note}");
}
