//! Mixtures of experts as models have them: every family on the GPU against the CPU's reference, and what files do with formats.

use std::collections::BTreeSet;
use std::sync::Arc;

use halfbyte::backend::{KvFormat, Limits, Weights, cpu, gpu};
use halfbyte::gguf::Gguf;
use halfbyte::graph::Op;
use halfbyte::model::Model;
use halfbyte::quant::{Format, SharedBytes, Weight};

use crate::common::{self, nmse};
use crate::golden::{self, TINY};
use crate::gpu::{assert_close, in_f32, limit, logits, variants};
use crate::model::families::with_tensors_of_experts;
use crate::ops::format;

const LIMITS: Limits = Limits { max_rows: 64, max_outputs: 64, max_seqs: 1, n_ctx: 512, n_pages: 16 };

/// Rows, and the position of the first: a prompt whose slots are sorted, tokens, a few at once, and more of a prompt.
const STEPS: [(usize, usize); 5] = [(40, 0), (1, 40), (1, 41), (5, 42), (9, 47)];

fn on_gpu(model: &Model, weights: &dyn Weights, options: &gpu::Options) -> halfbyte::Result<gpu::GpuProgram> {
    gpu::compile(&model.graph, weights, LIMITS, options, &mut |_, _| ())
}

/// Compares all steps with the reference, by every variant of the kernels.
fn check(name: &str, model: &Model, weights: &dyn Weights) {
    let options = cpu::Options { kernels: cpu::Kernels::Reference, ..Default::default() };
    let mut reference = cpu::compile(&model.graph, weights, LIMITS, options).expect("the CPU takes any graph");
    let expected = STEPS.map(|(n, from)| logits(&mut reference, n, from));
    // What keys and values in half precision cost this model, which experts may make more of.
    let options = cpu::Options { kv: KvFormat::F16, ..Default::default() };
    let mut in_halves = cpu::compile(&model.graph, weights, LIMITS, options).expect("the CPU takes any graph");
    let of_halves: Vec<f64> = STEPS
        .into_iter()
        .zip(&expected)
        .map(|((n, from), expected)| {
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            nmse(&logits(&mut in_halves, n, from), &expected)
        })
        .collect();
    for (variant, options) in variants() {
        let mut program = on_gpu(model, weights, &options).expect("a Vulkan adapter; ./scripts/test installs one");
        for (((n, from), expected), of_halves) in STEPS.into_iter().zip(&expected).zip(&of_halves) {
            let what = format!("{name}, {n} rows from {from}, {variant}");
            let limit = match options.kv {
                KvFormat::F16 => limit(&options).max(4.0 * of_halves),
                _ => limit(&options),
            };
            assert_close(&what, &logits(&mut program, n, from), expected, limit);
        }
    }
}

#[test]
fn every_family_is_that_of_the_reference() {
    let mut seen = BTreeSet::new();
    for &(name, _) in TINY {
        let model = golden::tiny(name);
        if model.graph.ops.iter().any(|op| matches!(op, Op::Route { .. })) {
            check(name, &model, &model);
            seen.insert(model.config.arch);
        }
    }
    let all = ["deepseek", "glm4moe", "gpt-oss", "granitemoe", "llama", "olmoe", "qwen2moe", "qwen3moe"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

/// A model with some weights in other formats than its file has them.
struct Requantized<'a> {
    model: &'a Model,
    format_of: &'a dyn Fn(&str) -> Option<&'static Format>,
}

impl Weights for Requantized<'_> {
    fn weight(&self, name: &str) -> Option<Weight> {
        let weight = self.model.weight(name)?;
        let Some(format) = (self.format_of)(name) else { return Some(weight) };
        let numbers = weight.to_f32();
        let mut bytes = vec![0; format.bytes(numbers.len())];
        (format.quantize)(&numbers, None, &mut bytes);
        Some(Weight { format, bytes: SharedBytes::new(Arc::new(bytes)), ..weight })
    }
}

/// As files of mixed formats have them: of experts' matrices some are finer, here of all kinds in turn, there in every other layer.
#[test]
fn experts_of_a_model_may_have_several_formats() {
    let model = golden::tiny("qwen3moe-q8_0");
    for finer in [&["blk.0.ffn_down_exps"][..], &["blk.1.ffn_down_exps", "blk.1.ffn_up_exps", "blk.0.ffn_gate_exps"]] {
        let format_of = |name: &str| {
            let is_finer = finer.iter().any(|start| name.starts_with(start));
            name.contains("_exps").then(|| format(if is_finer { "Q6_K" } else { "Q4_K" }))
        };
        check(&format!("Q4_K with {finer:?} in Q6_K"), &model, &Requantized { model: &model, format_of: &format_of });
    }
}

/// Early files have a tensor for each expert.
#[test]
fn experts_with_a_tensor_each_are_those_of_one_tensor() {
    let stacked = Gguf::open(&common::golden("tiny/mixtral-q8_0.gguf")).expect("a golden file");
    let split = Model::from_gguf(&with_tensors_of_experts(&stacked, "")).expect("a mixtral");
    let stacked = Model::from_gguf(&stacked).expect("a mixtral");
    for (variant, options) in variants() {
        let [mut split, mut stacked] = [&split, &stacked]
            .map(|model| on_gpu(model, model, &options).expect("a Vulkan adapter; ./scripts/test installs one"));
        for (n, from) in STEPS {
            let found = logits(&mut split, n, from).into_iter().map(f32::to_bits);
            let expected = logits(&mut stacked, n, from).into_iter().map(f32::to_bits);
            assert!(found.eq(expected), "{n} rows from {from}, {variant}");
        }
    }
}

/// The experts of a matrix are one binding with one format. Where a file with a tensor for each has several, the CPU takes it.
#[test]
fn experts_of_one_matrix_in_several_formats_are_an_error() {
    let stacked = Gguf::open(&common::golden("tiny/mixtral-q8_0.gguf")).expect("a golden file");
    let model = Model::from_gguf(&with_tensors_of_experts(&stacked, "")).expect("a mixtral");
    for name in ["blk.1.ffn_up.2.weight", "blk.0.ffn_down.3.weight"] {
        let format_of = |other: &str| (other == name).then(|| format("Q4_K"));
        let weights = Requantized { model: &model, format_of: &format_of };
        for fuse in [true, false] {
            let options = gpu::Options { fuse, ..in_f32() };
            let error = on_gpu(&model, &weights, &options).err().expect("two formats in one matrix");
            let text = error.to_string();
            assert!(text.contains(" is Q8_0, and ") && text.contains(&format!("`{name}` Q4_K")), "{text}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--device cpu")), "{error}");
        }
        let mut program = cpu::compile(&model.graph, &weights, LIMITS, cpu::Options::default()).expect("any graph");
        let found = logits(&mut program, 40, 0);
        assert!(found.iter().all(|x| x.is_finite()), "{name}");
    }
}
