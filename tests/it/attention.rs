//! Attention on the GPU against its formula in f64: head sizes, groups, windows, caps and sinks, each format of keys and
//! values, prompts of several sequences and single rows far behind one.

use halfbyte::backend::gpu::{self, KvFormat};
use halfbyte::backend::{Limits, Program, Weights};
use halfbyte::engine::{Device, EngineOptions, Loaded};
use halfbyte::graph::Graph;

use crate::common::real_model;
use crate::golden::{self, SMOLLM2};
use crate::ops::{self, AttentionCase};

/// Error where nothing is rounded.
const NMSE_F32: f64 = 1e-7;
/// Error where keys and values are f16: 2⁻¹¹ relative on each, squared, and a score is a sum of many.
pub(crate) const NMSE_F16: f64 = 1e-5;
/// Error where keys and values are q8_0. Rounding moves a number by up to 1/254 of the largest of its block, of which outliers
/// twenty times the others are part here: relative to the sum of squares some 10⁻⁴ in the values, and as much again through the
/// scores.
pub(crate) const NMSE_Q8_0: f64 = 2e-3;

const FORMATS: [(KvFormat, f64); 3] =
    [(KvFormat::F32, NMSE_F32), (KvFormat::F16, NMSE_F16), (KvFormat::Q8_0, NMSE_Q8_0)];

fn check(case: AttentionCase, options: &gpu::Options, seed: u64, limit: f64) {
    let compile = |graph: &Graph, weights: &dyn Weights, limits: Limits| -> Box<dyn Program> {
        let program = gpu::compile(graph, weights, limits, options, &mut |_, _| ());
        Box::new(program.expect("a Vulkan adapter; ./scripts/test installs one"))
    };
    ops::check_attention(&compile, case, seed, limit);
}

fn options(kv: KvFormat) -> gpu::Options {
    gpu::Options { kv, fuse: false, keep_tensors: true, ..gpu::Options::default() }
}

const CASE: AttentionCase =
    AttentionCase { lens: [70, 35], n_head: 9, n_head_kv: 3, head_dim: 64, window: None, softcap: None, sinks: false };

#[test]
fn heads_of_all_sizes_and_groups() {
    for (kv, limit) in FORMATS {
        for (i, (n_head, n_head_kv, head_dim)) in
            [(16, 8, 4), (4, 2, 80), (6, 2, 96), (8, 1, 128), (4, 1, 256)].into_iter().enumerate()
        {
            let case = AttentionCase { n_head, n_head_kv, head_dim, sinks: i % 2 == 0, ..CASE };
            check(case, &options(kv), i as u64, limit);
        }
    }
    for (n_head, n_head_kv, head_dim) in [(3, 3, 64), (7, 1, 64), (11, 1, 32), (16, 8, 20)] {
        check(AttentionCase { n_head, n_head_kv, head_dim, ..CASE }, &options(KvFormat::F32), 11, NMSE_F32);
    }
}

#[test]
fn windows_caps_and_sinks() {
    for (window, softcap, sinks) in [
        (Some(1), None, true),
        (Some(16), None, false),
        (Some(33), Some(20.0), true),
        (None, Some(5.0), false),
        (None, None, true),
    ] {
        let case = AttentionCase { window, softcap, sinks, ..CASE };
        check(case, &options(KvFormat::F32), 7, NMSE_F32);
    }
}

#[test]
fn without_subgroups_and_with_checks() {
    for (subgroups, checked) in [(false, false), (true, true)] {
        let mut options = options(KvFormat::Q8_0);
        options.device.subgroups = subgroups;
        options.device.f16 = false;
        options.checked = checked;
        check(AttentionCase { sinks: true, ..CASE }, &options, 8, NMSE_Q8_0);
    }
}

/// So few rows that each is a workgroup's, of two sequences.
#[test]
fn few_rows_of_two_sequences() {
    for (kv, limit) in FORMATS {
        check(AttentionCase { lens: [5, 3], sinks: true, ..CASE }, &options(kv), 9, limit);
        check(AttentionCase { lens: [1, 1], ..CASE }, &options(kv), 10, limit);
    }
}

/// A model answers as llama.cpp does; how far its logits may move by the rounding of keys and values is a mean over all of
/// them: 0.03 where these are f16.
#[test]
fn smollm2_is_golden_with_q8_0_keys_and_values() {
    let model = golden::load(&real_model(SMOLLM2));
    let options = gpu::Options { kv: KvFormat::Q8_0, ..gpu::Options::default() };
    let program = gpu::compile(&model.graph, &model, golden::limits(64, 64), &options, &mut |_, _| ());
    golden::check_real(&mut program.expect("a Vulkan adapter; ./scripts/test installs one"), "smollm2-moon", 0.06);
}

#[test]
fn memory_is_planned_for_the_format() {
    let kv_bytes = |kv| {
        let options = EngineOptions { device: Device::Gpu, n_ctx: Some(256), kv, ..EngineOptions::default() };
        let Loaded { program, facts, .. } =
            Loaded::open(&real_model(SMOLLM2), &options, &mut |_, _| {}).expect("it loads");
        assert_eq!(program.info().memory.kv_bytes, facts.memory.kv_bytes, "{kv:?}");
        facts.memory.kv_bytes
    };
    // 30 layers, keys and values, 3 heads of 64 numbers, 256 positions.
    let numbers = 30 * 2 * 3 * 64 * 256;
    assert_eq!(kv_bytes(None), numbers * 2);
    assert_eq!(kv_bytes(Some(KvFormat::F32)), numbers * 4);
    assert_eq!(kv_bytes(Some(KvFormat::Q8_0)), numbers / 32 * 34);
}
