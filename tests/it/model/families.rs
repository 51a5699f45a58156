//! What families do with keys and tensors of their own.

use std::path::Path;
use std::sync::Arc;

use halfbyte::backend::cpu;
use halfbyte::gguf::{Array, Gguf, GgufWriter, Value, ValueType};
use halfbyte::graph::{self, Gating, Graph, Op, ValueId};
use halfbyte::model::Model;
use halfbyte::quant::SharedBytes;

use super::Changed;
use crate::steps::{Sequence, assert_same};
use crate::{common, golden};

#[test]
fn sizes_of_experts_that_make_no_sense_are_named() {
    let mixtral = || Changed::new("mixtral-q8_0");
    for (key, value, why) in [
        ("llama.expert_count", Value::U32(1025), "expected 1 to 1024, found 1025"),
        ("llama.expert_used_count", Value::U32(5), "expected 1 to 4, found 5"),
        ("llama.expert_used_count", Value::U32(0), "expected 1 to 4, found 0"),
        ("llama.expert_feed_forward_length", Value::U32(u32::MAX), "found 4294967295"),
        ("llama.expert_gating_func", Value::U32(4), "expected one of [0, 1, 2, 3] (others are not supported), found 4"),
        ("llama.expert_group_count", Value::U32(8), "expected one of [0, 1]"),
        ("llama.expert_shared_count", Value::U32(1025), "expected 1 to 1024, found 1025"),
        ("llama.leading_dense_block_count", Value::U32(3), "expected 1 to 2, found 3"),
        ("llama.expert_weights_scale", Value::F32(-1.0), "expected a number above 0, found -1"),
    ] {
        let error = mixtral().key(key, value).error();
        assert!(error.contains(key) && error.contains(why), "{key}: {error}");
    }
    let error = mixtral().without_key("llama.expert_used_count").error();
    assert_eq!(error, "the file has no metadata key `llama.expert_used_count`");
    let error = Changed::new("qwen3-q8_0").key("qwen3.expert_count", 2u32).key("qwen3.expert_used_count", 1u32).error();
    assert_eq!(error, "the file has no tensor `blk.0.ffn_gate_inp.weight`");
    let error = mixtral().key("llama.expert_count", 5u32).error();
    assert_eq!(error, "tensor `blk.0.ffn_gate_inp.weight`: expected shape [5, 256], found [4, 256]");
    let error = mixtral().key("llama.expert_feed_forward_length", 128u32).error();
    assert_eq!(error, "tensor `blk.0.ffn_gate_exps.weight`: expected shape [4, 128, 256], found [4, 256, 256]");
    let error = mixtral().key("llama.expert_shared_feed_forward_length", 64u32).error();
    assert_eq!(error, "the file has no tensor `blk.0.ffn_gate_shexp.weight`");
    let error = Changed::new("qwen2moe-f32").key("qwen2moe.expert_shared_feed_forward_length", 64u32).error();
    assert_eq!(error, "tensor `blk.0.ffn_gate_shexp.weight`: expected shape [64, 64], found [192, 64]");
    let error = Changed::new("glm4moe-plain").tensor("blk.1.exp_probs_b.bias", &[4], vec![0.0; 4]).error();
    assert_eq!(error, "tensor `blk.1.exp_probs_b.bias`: expected shape [6], found [4]");
    let error = Changed::new("glm4moe-f32").key("glm4moe.nextn_predict_layers", 3u32).error();
    assert!(error.contains("glm4moe.nextn_predict_layers") && error.contains("expected 1 to 2, found 3"), "{error}");
    let error = mixtral().without_tensor("blk.1.ffn_down_exps.weight").error();
    assert_eq!(error, "the file has no tensor `blk.1.ffn_down_exps.weight`");
    let error = mixtral().tensor("blk.0.ffn_up_exps.bias", &[1024], vec![0.0; 1024]).error();
    assert_eq!(error, "tensor `blk.0.ffn_up_exps.bias`: expected shape [4, 256], found [1024]");
}

/// How a graph's experts are routed, layer by layer.
fn routes(model: &Model) -> Vec<(usize, Gating, f32)> {
    let route = |op: &Op| match op {
        Op::Route { n_used, gating, scale, .. } => Some((*n_used, *gating, *scale)),
        _ => None,
    };
    model.graph.ops.iter().filter_map(route).collect()
}

#[test]
fn experts_are_routed_as_the_file_says() {
    let qwen3moe = || Changed::new("qwen3moe-q8_0");
    assert_eq!(routes(&qwen3moe().model().expect("unchanged")), [(3, Gating::Used, 1.0); 2]);
    let changed = qwen3moe().key("qwen3moe.expert_weights_norm", false).key("qwen3moe.expert_weights_scale", 2.5f32);
    assert_eq!(routes(&changed.model().expect("known keys")), [(3, Gating::All, 2.5); 2]);
    let changed =
        qwen3moe().key("qwen3moe.expert_gating_func", 3u32).without_key("qwen3moe.expert_feed_forward_length");
    assert_eq!(routes(&changed.model().expect("256 is the width of both")), [(3, Gating::Used, 1.0); 2]);
    let changed = qwen3moe().key("qwen3moe.expert_gating_func", 2u32);
    assert_eq!(routes(&changed.model().expect("sigmoids")), [(3, Gating::NormedSigmoid, 1.0); 2]);
    assert_eq!(routes(&Changed::new("olmoe-f32").model().expect("unchanged")), [(2, Gating::All, 1.0); 2]);
    let glm = Changed::new("glm4moe-plain").without_key("glm4moe.expert_gating_func").model().expect("sigmoids");
    assert_eq!(routes(&glm), [(2, Gating::Sigmoid, 1.5)]);
}

/// The file of a mixture with a tensor for each expert, as early ones have it; without the tensor `missing`.
pub(crate) fn with_tensors_of_experts(from: &Gguf, missing: &str) -> Gguf {
    let mut writer = GgufWriter::new();
    from.metadata().iter().for_each(|(key, value)| _ = writer.set(key, value.clone()));
    let mut pieces = Vec::new();
    for tensor in from.tensors() {
        let bytes = &from.weight(&tensor.name).expect("a known format").expect("it is in the table").bytes;
        let each = match tensor.name.strip_suffix("_exps.weight") {
            None => vec![(tensor.name.clone(), &tensor.shape[..], bytes.to_vec())],
            Some(name) => {
                let each = bytes.chunks(bytes.len() / tensor.shape[0]).enumerate();
                each.map(|(e, b)| (format!("{name}.{e}.weight"), &tensor.shape[1..], b.to_vec())).collect()
            }
        };
        for (name, shape, bytes) in each.into_iter().filter(|(name, ..)| name != missing) {
            writer.tensor(&name, shape, tensor.format_id);
            pieces.push(bytes);
        }
    }
    let mut stream = writer.start(Vec::new(), Path::new("split")).expect("memory can be written");
    pieces.iter().for_each(|bytes| stream.write(bytes).expect("memory can be written"));
    let bytes = stream.finish().expect("memory can be written");
    Gguf::from_bytes(SharedBytes::new(Arc::new(bytes)), Path::new("split")).expect("a GGUF file")
}

#[test]
fn experts_may_have_a_tensor_each() {
    let stacked = Gguf::open(&common::golden("tiny/mixtral-q8_0.gguf")).expect("a golden file");
    let split = with_tensors_of_experts(&stacked, "");
    assert_eq!(split.tensors().len(), stacked.tensors().len() + 2 * 3 * 3, "three more of three kinds in two layers");
    let logits = |gguf: &Gguf, kernels: cpu::Kernels| {
        let model = Model::from_gguf(gguf).expect("a mixtral");
        let options = cpu::Options { kernels, ..Default::default() };
        let mut program = cpu::compile(&model.graph, &model, golden::limits(64, 64), options).expect("any graph");
        Sequence::new(64).append(&mut program, &[260; 40], usize::MAX, &[7, 39])
    };
    for kernels in [cpu::Kernels::Reference, cpu::Kernels::Fast] {
        assert_same("split", &logits(&split, kernels), &logits(&stacked, kernels), 0.0);
    }
    let missing = "blk.1.ffn_up.3.weight";
    let error = Model::from_gguf(&with_tensors_of_experts(&stacked, missing)).expect_err("a tensor is missing");
    assert_eq!(error.to_string(), format!("the file has no tensor `{missing}`"));
    let text = Model::from_gguf(&split).expect("a mixtral").graph.to_string();
    let product = "blk.0.ffn_up.0.weight [256, 256] to blk.0.ffn_up.3.weight [256, 256] of 4 experts)";
    assert!(text.contains(product), "{text}");
}

#[test]
fn layers_that_guess_a_token_more_are_left_out() {
    let graph = Changed::new("glm4moe-f32").model().expect("unchanged").graph;
    assert_eq!(graph.kv.len(), 2);
    let mixtures = graph.ops.iter().filter(|op| matches!(op, Op::Route { .. })).count();
    assert_eq!(mixtures, 1, "the first layer is dense");
}

/// The window of each layer.
fn windows(changed: Changed) -> Vec<Option<usize>> {
    let spec = |op: &Op| if let Op::Attention { spec, .. } = op { Some(spec.window) } else { None };
    changed.model().expect("a known pattern").graph.ops.iter().filter_map(spec).collect()
}

#[test]
fn sliding_windows_are_in_the_layers_that_a_file_says() {
    let gemma2 = || Changed::new("gemma2-q8_0");
    let pattern = "gemma2.attention.sliding_window_pattern";
    let layers = |layers: &[bool]| {
        let layers: Vec<Value> = layers.iter().map(|&layer| Value::Bool(layer)).collect();
        Value::Array(Array::new(ValueType::Bool, &layers))
    };
    assert_eq!(windows(gemma2()), [Some(16), None]);
    assert_eq!(windows(gemma2().without_key("gemma2.attention.sliding_window")), [Some(4096), None]);
    assert_eq!(windows(gemma2().key(pattern, layers(&[false, true]))), [None, Some(16)]);
    assert_eq!(windows(Changed::new("olmo2-window")), [Some(8), Some(8), Some(8), None]);
    assert_eq!(windows(Changed::new("gpt-oss-f32")), [Some(8), None]);
    let error = gemma2().key(pattern, layers(&[true])).error();
    assert!(error.contains(pattern) && error.contains("expected 2 layers, found 1"), "{error}");
    let error = gemma2().key(pattern, 0u32).error();
    assert!(error.contains(pattern) && error.contains("found 0"), "{error}");
}

#[test]
fn the_context_decides_between_the_factors_of_longrope() {
    let gguf = Gguf::open(&common::golden("tiny/phi3-long.gguf")).expect("a golden file");
    let rope = |n_ctx: usize| Model::for_context(&gguf, n_ctx).expect("a phi3").graph.ropes.remove(0);
    let (short, long) = (rope(16), rope(17));
    // The last factors are 1.5 and 20; both begin with 1.
    let ratio = short.inv_freq[15] / long.inv_freq[15];
    assert!((ratio - 20.0 / 1.5).abs() < 1e-5, "{ratio}");
    assert_eq!(short.inv_freq[0], long.inv_freq[0]);
    assert_eq!((short.scale, long.scale), (1.2, 1.2));
    // The file was trained on 512.
    assert_eq!(Model::from_gguf(&gguf).expect("a phi3").graph.ropes, [long]);
    let error = Changed::new("phi3-long").tensor("rope_factors_long.weight", &[8], vec![1.0; 8]).error();
    assert_eq!(error, "tensor `rope_factors_long.weight`: expected shape [16], found [8]");
}

#[test]
fn yarn_slows_down_what_turns_slowly() {
    let plain = Changed::new("llama-yarn").key("llama.rope.scaling.type", "none").model().expect("none").graph.ropes;
    let yarn = Changed::new("llama-yarn").model().expect("yarn").graph.ropes;
    let slower: Vec<f64> = yarn[0].inv_freq.iter().zip(&plain[0].inv_freq).map(|(a, b)| a / b).collect();
    // Pair 0 turns ten times in the 64 positions of the first training, the last one not once.
    assert_eq!((slower[0], slower[15]), (1.0, 0.25));
    assert!(slower.is_sorted_by(|a, b| a >= b), "{slower:?}");
    assert!((yarn[0].scale - 1.138_629_4).abs() < 1e-6, "1 + 0.1 ln 4, not {}", yarn[0].scale);
    let done = Changed::new("llama-yarn").key("llama.rope.scaling.yarn_log_multiplier", 1f32);
    assert_eq!(done.model().expect("yarn").graph.ropes[0].scale, 1.0);
    // A narrower ramp.
    let fast =
        Changed::new("llama-yarn").key("llama.rope.scaling.yarn_beta_fast", 2f32).model().expect("yarn").graph.ropes;
    assert_ne!(fast[0].inv_freq, yarn[0].inv_freq);
}

/// Whether positions turn queries, layer by layer.
fn turns(graph: &Graph) -> Vec<bool> {
    let turns = |(_, op, value): (ValueId, &Op, &graph::Value)| match op {
        Op::Rope { rope, .. } if value.name.contains("attn_q") => {
            Some(graph.ropes[*rope].inv_freq.iter().any(|&inv_freq| inv_freq != 0.0))
        }
        _ => None,
    };
    graph.iter().filter_map(turns).collect()
}

#[test]
fn every_fourth_layer_of_smollm3_has_no_rope() {
    let graph = Changed::new("smollm3-f32").model().expect("unchanged").graph;
    assert_eq!(turns(&graph), [true, true, true, false]);
}

#[test]
fn granite_has_factors_of_its_own_and_may_have_no_rope() {
    let granite = || Changed::new("granite-f32");
    let graph = granite().model().expect("unchanged").graph;
    assert!(matches!(graph.ops[graph.logits.index()], Op::Scale { factor: 0.4, .. }));
    let Op::Embed { scale, .. } = graph.ops[0] else { panic!("a model begins with tokens") };
    assert_eq!(scale, 3.0 / 0.22);
    let graph = granite().key("granite.rope.scaling.finetuned", false).model().expect("no rope").graph;
    assert_eq!(turns(&graph), [false; 2]);
    let error = granite().without_key("granite.logit_scale").error();
    assert_eq!(error, "the file has no metadata key `granite.logit_scale`");
}

#[test]
fn fused_matrices_have_the_rows_of_all() {
    let error = Changed::new("phi3-q8_0").key("phi3.attention.head_count_kv", 4u32).error();
    assert_eq!(error, "tensor `blk.0.attn_qkv.weight`: expected shape [768, 256], found [512, 256]");
    let error = Changed::new("phi3-q8_0").key("phi3.feed_forward_length", 512u32).error();
    assert_eq!(error, "tensor `blk.0.ffn_up.weight`: expected shape [1024, 256], found [512, 256]");
}
