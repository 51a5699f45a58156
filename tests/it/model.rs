//! Models: what a file's keys and tensors become, and what is refused before anything large is allocated.
//!
//! Files are made from the tiny ones by changing a key or a tensor.

pub(crate) mod families;

use std::path::Path;

use halfbyte::Error;
use halfbyte::gguf::{Gguf, GgufWriter, Value};
use halfbyte::graph::{Op, RopeKind};
use halfbyte::model::Model;
use halfbyte::quant::SharedBytes;

use crate::common;
use crate::golden::GEMMA3;

/// A tiny file with changes.
struct Changed {
    from: &'static str,
    keys: Vec<(&'static str, Option<Value>)>,
    /// Tensors that are taken out.
    without: Vec<&'static str>,
    /// F32 tensors that are put in, or in place of others.
    tensors: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
}

impl Changed {
    fn new(from: &'static str) -> Self {
        Self { from, keys: Vec::new(), without: Vec::new(), tensors: Vec::new() }
    }

    fn key(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.keys.push((key, Some(value.into())));
        self
    }

    fn without_key(mut self, key: &'static str) -> Self {
        self.keys.push((key, None));
        self
    }

    fn without_tensor(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    fn tensor(mut self, name: &'static str, shape: &[usize], numbers: Vec<f32>) -> Self {
        self.tensors.push((name, shape.to_vec(), numbers));
        self.without_tensor(name)
    }

    fn model(self) -> Result<Model, Error> {
        let from = Gguf::open(&common::golden(&format!("tiny/{}.gguf", self.from))).expect("a golden file");
        let mut writer = GgufWriter::new();
        for (key, value) in from.metadata().iter() {
            if self.keys.iter().all(|(changed, _)| *changed != key) {
                writer.set(key, value.clone());
            }
        }
        for (key, value) in self.keys {
            value.into_iter().for_each(|value| _ = writer.set(key, value));
        }
        let kept: Vec<_> = from.tensors().iter().filter(|t| !self.without.contains(&&t.name[..])).collect();
        for tensor in &kept {
            writer.tensor(&tensor.name, &tensor.shape, tensor.format_id);
        }
        for (name, shape, _) in &self.tensors {
            writer.tensor(name, shape, 0);
        }
        let mut stream = writer.start(Vec::new(), Path::new("changed")).expect("memory can be written");
        for tensor in &kept {
            let weight = from.weight(&tensor.name).expect("a known format").expect("it is in the table");
            stream.write(&weight.bytes).expect("memory can be written");
        }
        for (_, _, numbers) in &self.tensors {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            stream.write(&bytes).expect("memory can be written");
        }
        let bytes = stream.finish().expect("memory can be written");
        let gguf = Gguf::from_bytes(SharedBytes::new(std::sync::Arc::new(bytes)), Path::new("changed"));
        Model::from_gguf(&gguf.expect("the changed file is a GGUF file"))
    }

    /// The error's text.
    fn error(self) -> String {
        match self.model() {
            Ok(model) => panic!("accepted: {:?}", model.config),
            Err(error) => error.to_string(),
        }
    }
}

fn llama() -> Changed {
    Changed::new("llama-f32")
}

fn gemma3() -> Changed {
    Changed::new("gemma3-q8_0")
}

#[test]
fn a_file_becomes_its_hyper_parameters() {
    let config = llama().model().expect("unchanged").config;
    assert_eq!((config.arch, config.name.as_deref()), ("llama", Some("tiny-llama")));
    assert_eq!((config.n_layer, config.n_embd, config.n_ff, config.n_vocab), (2, 256, 256, 288));
    assert_eq!((config.n_head, config.n_head_kv, config.head_dim, config.n_ctx), (4, 2, 64, 512));
}

#[test]
fn keys_that_make_no_sense_are_named() {
    for (key, value, why) in [
        ("llama.block_count", Value::U32(0), "expected 1 to 22, found 0"),
        ("llama.block_count", Value::U32(u32::MAX), "expected 1 to 22, found 4294967295"),
        ("llama.block_count", Value::F32(2.0), "expected an integer"),
        ("llama.embedding_length", Value::U32(0), "found 0"),
        ("llama.embedding_length", Value::U64(u64::MAX), "found 18446744073709551615"),
        ("llama.feed_forward_length", Value::U32(0), "found 0"),
        ("llama.attention.head_count", Value::U32(0), "found 0"),
        ("llama.attention.head_count", Value::U32(u32::MAX), "found 4294967295"),
        ("llama.attention.head_count_kv", Value::U32(0), "found 0"),
        ("llama.attention.head_count_kv", Value::U32(3), "expected a divisor of 4 heads, found 3"),
        ("llama.attention.head_count_kv", Value::U32(8), "found 8"),
        ("llama.attention.key_length", Value::U32(0), "found 0"),
        ("llama.attention.key_length", Value::U32(1 << 30), "found 1073741824"),
        ("llama.attention.value_length", Value::U32(32), "expected the key length, 64, found 32"),
        ("llama.rope.dimension_count", Value::U32(63), "expected an even number, found 63"),
        ("llama.rope.dimension_count", Value::U32(66), "expected 1 to 64, found 66"),
        ("llama.rope.freq_base", Value::F32(0.0), "expected a number above 0"),
        ("llama.rope.freq_base", Value::F32(f32::NAN), "found NaN"),
        ("llama.rope.scaling.type", "ntk".into(), "expected none, linear, longrope or yarn, found ntk"),
        ("llama.rope.scaling.factor", Value::F32(-2.0), "expected a number above 0, found -2"),
        ("llama.context_length", Value::U32(0), "found 0"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY), "found inf"),
    ] {
        let error = llama().key(key, value).error();
        assert!(error.contains(key) && error.contains(why), "{key}: {error}");
    }
    for key in ["llama.block_count", "llama.attention.head_count", "llama.context_length", "general.architecture"] {
        assert_eq!(llama().without_key(key).error(), format!("the file has no metadata key `{key}`"));
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let error = llama().without_tensor("blk.1.ffn_up.weight").error();
    assert_eq!(error, "the file has no tensor `blk.1.ffn_up.weight`");
    let error = llama().without_tensor("token_embd.weight").error();
    assert_eq!(error, "the file has no tensor `token_embd.weight`");
    let error = llama().key("llama.feed_forward_length", 512u32).error();
    assert_eq!(error, "tensor `blk.0.ffn_gate.weight`: expected shape [512, 256], found [256, 256]");
    let error = llama().key("llama.embedding_length", 128u32).error();
    assert_eq!(error, "tensor `token_embd.weight`: expected shape [288, 128], found [288, 256]");
    let error = llama().tensor("blk.0.attn_norm.weight", &[2, 128], vec![1.0; 256]).error();
    assert_eq!(error, "tensor `blk.0.attn_norm.weight`: expected shape [256], found [2, 128]");
    let error = llama().tensor("rope_freqs.weight", &[31], vec![1.0; 31]).error();
    assert_eq!(error, "tensor `rope_freqs.weight`: expected shape [32], found [31]");
    let error = llama().tensor("rope_freqs.weight", &[32], vec![0.0; 32]).error();
    assert!(error.contains("rope_freqs.weight") && error.contains("found 0"), "{error}");
    // Each layer asks for what only some layers have.
    let error = llama().key("llama.block_count", 3u32).error();
    assert_eq!(error, "the file has no tensor `blk.2.attn_norm.weight`");
}

#[test]
fn an_unknown_architecture_says_which_are_known() {
    let error = llama().key("general.architecture", "mamba").model().expect_err("halfbyte has no mamba");
    assert_eq!(error.to_string(), "architecture `mamba` is not supported");
    let hint = error.hint().expect("it says what can be done");
    assert!(hint.starts_with("supported architectures: deepseek, gemma, ") && hint.contains(", llama, "), "{hint}");
}

#[test]
fn defaults_stand_for_keys_that_files_leave_out() {
    let model = llama()
        .without_key("llama.attention.key_length")
        .without_key("llama.attention.value_length")
        .without_key("llama.rope.dimension_count")
        .without_key("llama.rope.freq_base")
        .model();
    assert_eq!(model.expect("all of them have defaults").graph, llama().model().expect("unchanged").graph);
}

#[test]
fn biases_are_used_where_a_file_has_them() {
    let model = llama().tensor("blk.1.attn_k.bias", &[128], vec![0.5; 128]).model().expect("a llama with a bias");
    let with_bias: Vec<&str> = model
        .graph
        .iter()
        .filter(|(_, op, _)| matches!(op, Op::MatMul { bias: Some(_), .. }))
        .map(|(_, _, value)| &value.name[..])
        .collect();
    assert_eq!(with_bias, ["blk.1.attn_k.out"]);
}

#[test]
fn without_an_output_matrix_the_embedding_table_takes_its_place() {
    let model = llama().without_tensor("output.weight").model().expect("tied embeddings");
    let Op::MatMul { weight, .. } = &model.graph.ops[model.graph.logits.index()] else {
        panic!("logits are a matrix product");
    };
    assert_eq!(weight.name, "token_embd.weight");
}

#[test]
fn rope_frequencies_are_scaled_as_the_file_says() {
    let plain = llama().without_tensor("rope_freqs.weight").model().expect("without factors").graph.ropes;
    let expected: Vec<f64> = (0..32).map(|i| 10_000f64.powf(f64::from(i) / -32.0)).collect();
    assert_eq!((plain.len(), plain[0].kind), (1, RopeKind::Norm));
    assert!(plain[0].inv_freq.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-15 * b), "{:?}", plain[0]);

    let linear = |keys: &[(&'static str, Value)]| {
        let llama = llama().without_tensor("rope_freqs.weight");
        let changed = keys.iter().fold(llama, |llama, (key, value)| llama.key(key, value.clone()));
        changed.model().expect("scaling").graph.ropes[0].inv_freq[1] / plain[0].inv_freq[1]
    };
    let (kind, factor) = ("llama.rope.scaling.type", "llama.rope.scaling.factor");
    assert_eq!(linear(&[(kind, "linear".into()), (factor, 4f32.into())]), 0.25);
    assert_eq!(linear(&[(factor, 4f32.into())]), 0.25);
    assert_eq!(linear(&[(kind, "none".into()), (factor, 4f32.into())]), 1.0);
    assert_eq!(linear(&[("llama.rope.scale_linear", 8f32.into())]), 0.125);
    assert_eq!(linear(&[(factor, 0f32.into())]), 1.0);

    let factors = (1..=32).map(|i| i as f32).collect();
    let scaled = llama().tensor("rope_freqs.weight", &[32], factors).model().expect("factors").graph.ropes;
    for (i, (a, b)) in scaled[0].inv_freq.iter().zip(&plain[0].inv_freq).enumerate() {
        assert_eq!(*a, b / (i + 1) as f64);
    }
}

#[test]
fn every_sixth_layer_of_gemma3_is_global_with_a_rope_of_its_own() {
    let gguf = Gguf::open(&common::real_model(GEMMA3)).expect("the file opens");
    let graph = Model::from_gguf(&gguf).expect("it is a gemma3").graph;
    let mut n_layers = 0;
    for op in &graph.ops {
        match op {
            Op::Attention { spec, .. } => {
                let global = [5, 11, 17].contains(&spec.layer);
                assert_eq!(spec.window, (!global).then_some(512), "layer {}", spec.layer);
                assert_eq!(spec.scale, 1.0 / 16.0);
                n_layers += 1;
            }
            Op::Rope { rope, head_dim: 256, .. } => {
                let base = 1.0 / graph.ropes[*rope].inv_freq[64].powi(2);
                let expected = if [5, 11, 17].contains(&n_layers) { 1e6 } else { 1e4 };
                assert!((base / expected - 1.0).abs() < 1e-12, "layer {n_layers}: base {base}");
                assert_eq!(graph.ropes[*rope].kind, RopeKind::Neox);
            }
            _ => {}
        }
    }
    assert_eq!(n_layers, 18);
}

#[test]
fn gemma3_reads_its_own_keys() {
    let graph = gemma3().key("gemma3.attention.sliding_window", 0u32).model().expect("no window").graph;
    assert!(graph.ops.iter().all(|op| !matches!(op, Op::Attention { spec, .. } if spec.window.is_some())));

    let model = gemma3().key("gemma3.attention.sliding_window_pattern", 2u32).key("gemma3.rope.scaling.factor", 8f32);
    let graph = model.model().expect("another pattern").graph;
    let windows: Vec<Option<usize>> = graph
        .ops
        .iter()
        .filter_map(|op| if let Op::Attention { spec, .. } = op { Some(spec.window) } else { None })
        .collect();
    assert_eq!(windows, [Some(16), None]);
    // Both bases are 10,000 in the tiny file; only the global one is scaled.
    assert_eq!(graph.ropes[0].inv_freq[0], 1.0);
    assert_eq!(graph.ropes[1].inv_freq[0], 0.125);

    let graph = gemma3().key("gemma3.final_logit_softcapping", 30f32).model().expect("a cap").graph;
    assert!(matches!(graph.ops[graph.logits.index()], Op::Softcap { cap: 30.0, .. }));
    let Op::Embed { scale, .. } = graph.ops[0] else { panic!("a model begins with tokens") };
    assert_eq!(scale, 16.0);
}
