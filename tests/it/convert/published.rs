//! Models as they are published: each one's file computes what the model computes where it comes from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use halfbyte::backend::cpu::{self, Kernels, Options};
use halfbyte::convert::{self, quantize::Mix};
use halfbyte::gguf::Gguf;
use halfbyte::graph::{Gating, Graph, Op};
use halfbyte::model::Model;
use halfbyte::{Error, tokenizer};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{names_in, write};
use crate::common::{golden, nmse};
use crate::golden::limits;
use crate::steps::Sequence;

/// What a model computes (`golden/convert/NAME/expected.json`).
#[derive(Deserialize)]
struct Expected {
    text: String,
    tokens: Vec<u32>,
    /// Of the last token, in f32.
    logits: Vec<f64>,
}

/// A model, and GGUF's name of its architecture.
const MODELS: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("llama3", "llama"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3moe", "qwen3moe"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
    ("phi3", "phi3"),
    ("smollm3", "smollm3"),
    ("olmo2", "olmo2"),
    ("granite", "granite"),
    ("gpt-oss", "gpt-oss"),
    ("meta", "llama"),
];

fn folder(name: &str) -> PathBuf {
    golden("convert").join(name)
}

fn expected(name: &str) -> Expected {
    let text = std::fs::read_to_string(folder(name).join("expected.json")).expect("golden data");
    serde_json::from_str(&text).expect("JSON")
}

fn convert(folder: &Path, mix: Option<&str>, to: &Path) -> halfbyte::Result<()> {
    let mix = mix.map(Mix::by_name).transpose()?;
    let (plan, _) = convert::plan(folder, mix)?;
    write(&plan, to)
}

#[test]
fn files_compute_what_the_models_compute() {
    let temporary = tempfile::tempdir().expect("a folder");
    for &(name, arch) in MODELS {
        let path = temporary.path().join(name);
        convert(&folder(name), Some("F32"), &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let gguf = Gguf::open(&path).expect("a file");
        assert_eq!(gguf.metadata().str("general.architecture").expect("a string"), arch);
        let expected = expected(name);
        let model = Model::from_gguf(&gguf).unwrap_or_else(|e| panic!("{name}: {e}"));
        let options = Options { kernels: Kernels::Reference, kv: cpu_kv(), ..Options::default() };
        let mut program = cpu::compile(&model.graph, &model, limits(64, 64), options).expect("it compiles");
        let last = expected.tokens.len() - 1;
        let logits = Sequence::new(64).append(&mut program, &expected.tokens, usize::MAX, &[last]).remove(0);
        let error = nmse(&logits, &expected.logits);
        // llama3's golden data are of frequencies in bf16, as everything in its file is.
        let limit = if name == "llama3" { 1e-5 } else { 1e-6 };
        assert!(error <= limit, "{name}: nmse {error:.1e} (limit {limit:.0e})");
    }
}

/// The reference stores keys and values as they are.
fn cpu_kv() -> halfbyte::engine::KvFormat {
    halfbyte::engine::KvFormat::F32
}

#[test]
fn vocabularies_give_the_same_tokens() {
    let temporary = tempfile::tempdir().expect("a folder");
    for (name, _) in MODELS {
        let path = temporary.path().join(name);
        convert(&folder(name), None, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let gguf = Gguf::open(&path).expect("a file");
        let expected = expected(name);
        let tokenizer = match tokenizer::from_gguf(&gguf) {
            // Its scheme is not among those that the program has.
            Err(Error::UnsupportedTokenizer { part: "pre-tokenizer", .. }) => continue,
            tokenizer => tokenizer.unwrap_or_else(|e| panic!("{name}: {e}")),
        };
        let ids = tokenizer.encode_prompt(&expected.text).expect("it is encoded");
        assert_eq!(ids[..expected.tokens.len()], expected.tokens, "{name}");
    }
}

fn converted(name: &str, mix: Option<&str>) -> (tempfile::TempDir, Gguf) {
    let temporary = tempfile::tempdir().expect("a folder");
    let path = temporary.path().join("model.gguf");
    convert(&folder(name), mix, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let gguf = Gguf::open(&path).expect("a file");
    (temporary, gguf)
}

/// The text form of each value.
fn texts(gguf: &Gguf) -> HashMap<String, String> {
    gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

#[test]
fn metadata_are_those_that_llama_cpp_writes() {
    for (name, expected) in [
        (
            "llama3",
            &[
                ("general.type", "\"model\""),
                ("general.file_type", "32"),
                ("llama.block_count", "2"),
                ("llama.context_length", "128"),
                ("llama.attention.head_count_kv", "2"),
                ("llama.rope.freq_base", "500000"),
                ("llama.rope.dimension_count", "8"),
                ("llama.vocab_size", "304"),
                ("tokenizer.ggml.model", "\"gpt2\""),
                ("tokenizer.ggml.pre", "\"llama-bpe\""),
                ("tokenizer.ggml.bos_token_id", "0"),
                ("tokenizer.ggml.eos_token_id", "2"),
                ("tokenizer.chat_template", "\"{% for m in messages %}{{ m.content }}{% endfor %}\""),
            ][..],
        ),
        (
            "gemma3",
            &[
                ("gemma3.attention.key_length", "16"),
                ("gemma3.attention.sliding_window", "8"),
                ("gemma3.rope.freq_base", "1000000"),
                ("gemma3.rope.freq_base_swa", "10000"),
                ("general.file_type", "1"),
                ("tokenizer.ggml.model", "\"llama\""),
                ("tokenizer.ggml.add_space_prefix", "false"),
                ("tokenizer.ggml.add_bos_token", "true"),
                ("tokenizer.ggml.bos_token_id", "1"),
                ("tokenizer.ggml.eos_token_id", "2"),
            ],
        ),
        (
            "qwen3moe",
            &[
                ("qwen3moe.expert_count", "4"),
                ("qwen3moe.expert_used_count", "2"),
                ("qwen3moe.expert_feed_forward_length", "32"),
                ("tokenizer.ggml.pre", "\"qwen2\""),
            ],
        ),
        (
            "granite",
            &[
                ("granite.attention.scale", "0.2"),
                ("granite.embedding_scale", "3"),
                ("granite.residual_scale", "0.4"),
                ("granite.logit_scale", "2"),
            ],
        ),
        (
            "meta",
            &[
                ("llama.context_length", "2048"),
                ("llama.feed_forward_length", "64"),
                ("llama.embedding_length", "32"),
                ("tokenizer.ggml.unknown_token_id", "0"),
                ("tokenizer.ggml.bos_token_id", "1"),
            ],
        ),
    ] {
        let (_temporary, gguf) = converted(name, None);
        let found = texts(&gguf);
        for (key, value) in expected {
            assert_eq!(found.get(*key).map(String::as_str), Some(*value), "{name}: {key}");
        }
    }
}

#[test]
fn four_bit_experts_stay_as_they_are_packed() {
    let (_temporary, gguf) = converted("gpt-oss", Some("F32"));
    for (name, shape) in [("gate", [4, 64, 32]), ("up", [4, 64, 32]), ("down", [4, 32, 64])] {
        let tensor = gguf.tensor(&format!("blk.0.ffn_{name}_exps.weight")).expect("experts");
        assert_eq!((&tensor.shape[..], &*tensor.format_name()), (&shape[..], "MXFP4"));
    }
    // The second row of the first expert's gate is the third one of the file, and begins with its scale.
    let published = std::fs::read(folder("gpt-oss").join("model.safetensors")).expect("read");
    let (header, files) = safetensors::SafeTensors::read_metadata(&published).expect("safetensors");
    let data = |name: &str| {
        let info = files.info(&format!("model.layers.0.mlp.experts.{name}")).expect("there");
        &published[8 + header + info.data_offsets.0..]
    };
    let gate = gguf.tensor("blk.0.ffn_gate_exps.weight").and_then(|tensor| gguf.bytes(tensor)).expect("bytes");
    let (block, quants) = (&gate[17..34], &data("gate_up_proj_blocks")[2 * 16..3 * 16]);
    assert_eq!(block[0], data("gate_up_proj_scales")[2]);
    for i in 0..32 {
        let (ours, theirs) = (block[1 + i % 16] >> (i / 16 * 4) & 15, quants[i / 2] >> (i % 2 * 4) & 15);
        assert_eq!(ours, theirs, "quant {i}");
    }
    let bias = gguf.tensor("blk.0.ffn_up_exps.bias").expect("a bias");
    assert_eq!((&bias.shape[..], &*bias.format_name()), (&[4, 64][..], "F32"));
}

#[test]
fn experts_become_one_tensor_and_tokens_know_their_kind() {
    let (_temporary, gguf) = converted("mixtral", Some("Q8_0"));
    let experts = gguf.tensor("blk.0.ffn_down_exps.weight").expect("experts");
    assert_eq!((&experts.shape[..], &*experts.format_name()), (&[4, 32, 64][..], "Q8_0"));
    let router = gguf.tensor("blk.0.ffn_gate_inp.weight").expect("a router");
    assert_eq!(&*router.format_name(), "F32");
    let types = gguf.metadata().i32s("tokenizer.ggml.token_type").expect("types");
    let tokens = gguf.metadata().strings("tokenizer.ggml.tokens").expect("tokens");
    // `<unk>`, `<s>`, a byte, what tokenizer_config.json adds, and what is never used.
    assert_eq!([types[0], types[1], types[3], types[302], types[303]], [2, 3, 6, 3, 4]);
    assert_eq!((tokens.get(302), tokens.get(303)), (Some(&b"<|end|>"[..]), Some(&b"  "[..])));
}

/// A copy of a model's folder, to be spoiled.
pub(super) fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in names_in(&folder(name)) {
        std::fs::copy(folder(name).join(&file), copy.path().join(&file)).expect("copied");
    }
    copy
}

/// Fails unless converting the folder is refused with all of `parts` in the message, and a hint.
fn refused(folder: &Path, parts: &[&str]) {
    let result = convert(folder, None, &folder.join("out.gguf"));
    let error = result.err().unwrap_or_else(|| panic!("{parts:?}: it is not refused"));
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    assert!(error.hint().is_some(), "{text}");
    assert!(!folder.join("out.gguf").exists());
}

/// Replaces all of a text in a file, which has to have it.
pub(super) fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).expect("read");
    assert!(text.contains(from), "{from}");
    std::fs::write(path, text.replace(from, to)).expect("written");
}

#[test]
fn what_makes_no_sense_is_refused() {
    type Spoil = fn(&Path);
    let cases: &[(&str, Spoil, &[&str])] = &[
        ("llama", |f| std::fs::remove_file(f.join("config.json")).expect("removed"), &["no config.json"]),
        ("llama", |f| std::fs::write(f.join("config.json"), "[1]").expect("written"), &["not a JSON object"]),
        ("llama", |f| replace(&f.join("config.json"), "LlamaForCausalLM", "Other"), &["architecture `Other`"]),
        (
            "llama",
            |f| replace(&f.join("config.json"), "\"num_hidden_layers\": 1", "\"num_hidden_layers\": -1"),
            &["num_hidden_layers"],
        ),
        (
            "llama",
            |f| replace(&f.join("config.json"), "\"num_attention_heads\": 4", "\"num_attention_heads\": 5"),
            &["attn_q", "shape"],
        ),
        ("llama", |f| std::fs::remove_file(f.join("model.safetensors")).expect("removed"), &["model.safetensors"]),
        ("llama", |f| cut(&f.join("model.safetensors"), 60_000), &["model.safetensors", "safetensors"]),
        ("llama", |f| cut(&f.join("model.safetensors"), 4), &["not a safetensors file"]),
        (
            "llama",
            |f| std::fs::remove_file(f.join("tokenizer.json")).expect("removed"),
            &["tokenizer.json nor a tokenizer.model"],
        ),
        (
            "llama",
            |f| replace(&f.join("tokenizer.json"), "\"individual_digits\": true", "\"individual_digits\": false"),
            &["pre-tokenizer"],
        ),
        ("llama", |f| replace(&f.join("tokenizer.json"), "\"type\": \"BPE\"", "\"type\": \"Unigram\""), &["Unigram"]),
        (
            "llama3",
            |f| replace(&f.join("model.safetensors.index.json"), "model-00002-of-", "../model-00002-of-"),
            &["the name of a file"],
        ),
        (
            "llama3",
            |f| replace(&f.join("model.safetensors.index.json"), "\"model.norm.weight\"", "\"model.norms.weight\""),
            &["model.norms.weight"],
        ),
        ("llama3", |f| replace(&f.join("config.json"), "\"factor\": 8.0", "\"factor\": 0.0"), &["factor"]),
        ("llama3", |f| replace(&f.join("config.json"), "\"llama3\"", "\"llama4\""), &["rope_type"]),
        ("mistral", |f| cut(&f.join("tokenizer.model"), 1_001), &["not a SentencePiece model"]),
        ("meta", |f| cut(&f.join("consolidated.01.pth"), 20_000), &["consolidated.01.pth", "not a ZIP archive"]),
        ("meta", |f| std::fs::remove_file(f.join("consolidated.00.pth")).expect("removed"), &["consolidated.00.pth"]),
        ("meta", |f| std::fs::remove_file(f.join("tokenizer.model")).expect("removed"), &["tokenizer.model"]),
        ("meta", |f| replace(&f.join("params.json"), "\"norm_eps\"", "\"norm\""), &["norm_eps"]),
        (
            "meta",
            |f| std::fs::remove_file(f.join("consolidated.01.pth")).expect("removed"),
            &["consolidated.01.pth is missing"],
        ),
        (
            "meta",
            |f| std::fs::rename(f.join("consolidated.01.pth"), f.join("consolidated.02.pth")).expect("renamed"),
            &["consolidated.01.pth is missing"],
        ),
        (
            "meta",
            |f| replace(&f.join("params.json"), "\"n_layers\": 1", "\"n_layers\": 2"),
            &["no tensor `blk.1.attn_norm.weight`"],
        ),
        (
            "meta",
            |f| replace(&f.join("params.json"), "\"vocab_size\": -1", "\"vocab_size\": 5"),
            &["vocab_size", "rows of the embedding table"],
        ),
        (
            "meta",
            |f| replace(&f.join("params.json"), "\"n_layers\": 1", "\"n_layers\": 1, \"use_scaled_rope\": true"),
            &["use_scaled_rope"],
        ),
        (
            "meta",
            |f| std::fs::write(f.join("tokenizer.model"), "IQ== 0\nIg== 1\n").expect("written"),
            &["tokenizer.model", "tiktoken"],
        ),
    ];
    for (name, spoil, parts) in cases {
        let copy = copy(name);
        spoil(copy.path());
        refused(copy.path(), parts);
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = convert::plan(file.path(), None).err().expect("it is refused");
    assert!(error.to_string().contains("not a folder"), "{error}");
}

#[test]
fn settings_that_do_not_fit_the_weights_are_refused() {
    for (name, from, to, parts) in [
        ("llama", "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 5", &["no tensor `blk.1.attn_norm.weight`"][..]),
        ("llama", "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 4000000000", &["num_hidden_layers"]),
        ("llama3", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", &["no tensor `blk.1.", "nor 8 more"]),
        ("llama", "\"hidden_size\": 32", "\"hidden_size\": 64", &["token_embd.weight", "[304, 64]", "[304, 32]"]),
        ("llama", "\"intermediate_size\": 64", "\"intermediate_size\": 32", &["blk.0.ffn_gate.weight", "[32, 32]"]),
        ("llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", &["blk.0.attn_k.weight"]),
        ("llama", "\"vocab_size\": 304", "\"vocab_size\": 303", &["vocab_size", "304 rows"]),
        ("mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 2", &["blk.0.ffn_gate_inp.weight"]),
        (
            "qwen3moe",
            "\"decoder_sparse_step\": 1",
            "\"decoder_sparse_step\": 2",
            &["no tensor `blk.0.ffn_gate.weight`"],
        ),
        ("qwen2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", &["no tensor `lm_head.weight`"]),
    ] {
        let copy = copy(name);
        replace(&copy.path().join("config.json"), from, to);
        refused(copy.path(), parts);
    }
}

#[test]
fn what_the_file_could_not_say_is_refused() {
    for (name, from, to, part) in [
        ("llama", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "`hidden_act` is \"gelu\""),
        ("gemma", "\"gelu_pytorch_tanh\"", "\"relu\"", "is \"relu\""),
        ("gemma2", "\"gelu_pytorch_tanh\"", "\"gelu\"", "`hidden_activation` is \"gelu\""),
        ("llama", "\"rope_type\"", "\"partial_rotary_factor\": 0.5, \"rope_type\"", "`partial_rotary_factor`"),
        ("smollm3", "\"no_rope_layers\": [\n    1", "\"no_rope_layers\": [\n    0", "`no_rope_layers`"),
        ("gemma3", "\"attn_logit_softcapping\": null", "\"attn_logit_softcapping\": 50.0", "`attn_logit_softcapping`"),
        (
            "gemma3",
            "\"use_bidirectional_attention\": false",
            "\"use_bidirectional_attention\": true",
            "`use_bidirectional_attention`",
        ),
        ("gemma3", "\"sliding_attention\"\n", "\"chunked_attention\"\n", "`layer_types`"),
        ("gpt-oss", "\"swiglu_limit\": 7.0", "\"swiglu_limit\": 6.0", "`swiglu_limit` is 6"),
    ] {
        let copy = copy(name);
        replace(&copy.path().join("config.json"), from, to);
        refused(copy.path(), &[part]);
    }
}

/// A copy of a model's folder in which the first layer is there `n_layer` times, with these settings.
fn repeated(name: &str, n_layer: usize, settings: &Json) -> tempfile::TempDir {
    let copy = copy(name);
    let bytes = std::fs::read(folder(name).join("model.safetensors")).expect("read");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let all = tensors.iter().flat_map(|(name, view)| {
        let n = if name.contains("layers.0.") { n_layer } else { 1 };
        (0..n).map(move |il| (name.replace("layers.0.", &format!("layers.{il}.")), view.clone()))
    });
    let to = copy.path().join("model.safetensors");
    safetensors::serialize_to_file(all.collect::<Vec<_>>(), None, &to).expect("written");

    let path = copy.path().join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config["num_hidden_layers"] = n_layer.into();
    for (key, value) in settings.as_object().expect("an object") {
        config[key] = value.clone();
    }
    std::fs::write(&path, config.to_string()).expect("written");
    copy
}

fn graph_of(folder: &Path) -> Graph {
    let path = folder.join("out.gguf");
    convert(folder, None, &path).unwrap_or_else(|e| panic!("{e}"));
    Model::from_gguf(&Gguf::open(&path).expect("a file")).expect("a model").graph
}

#[test]
fn windows_are_in_the_layers_that_have_them() {
    let (slides, full) = ("sliding_attention", "full_attention");
    for (name, n_layer, settings, expected) in [
        ("gemma3", 7, json!({"layer_types": null, "_sliding_window_pattern": null}), "wwwww.w"),
        ("gemma3", 7, json!({"layer_types": null, "sliding_window_pattern": 3}), "ww.ww.w"),
        ("gemma3", 3, json!({"layer_types": [full, full, slides]}), "..w"),
        ("gemma3", 7, json!({"layer_types": [slides, slides, slides, slides, slides, slides, slides]}), "wwwwwww"),
        ("gemma2", 3, json!({"layer_types": null}), "w.w"),
        ("gemma2", 3, json!({"layer_types": [full, slides, slides]}), ".ww"),
        ("gemma2", 2, json!({"layer_types": [full, full]}), ".."),
        ("gpt-oss", 3, json!({"layer_types": [slides, full, slides]}), "w.w"),
        ("qwen3", 2, json!({"layer_types": null}), ".."),
    ] {
        let folder = repeated(name, n_layer, &settings);
        let graph = graph_of(folder.path());
        let windows = graph.ops.iter().filter_map(|op| match op {
            Op::Attention { spec, .. } => Some(if spec.window.is_some() { 'w' } else { '.' }),
            _ => None,
        });
        assert_eq!(windows.collect::<String>(), expected, "{name}: {settings}");
    }
    let folder = repeated("gemma3", 3, &json!({"layer_types": [slides, full]}));
    refused(folder.path(), &["`layer_types`", "for each layer"]);
}

#[test]
fn every_fourth_layer_of_smollm3_has_no_positions() {
    for (n_layer, settings, refusal) in [
        (5, json!({"layer_types": null, "no_rope_layers": [1, 1, 1, 0, 1]}), None),
        (5, json!({"layer_types": null, "no_rope_layers": null}), None),
        (5, json!({"layer_types": null, "no_rope_layers": [1, 1, 0, 1, 1]}), Some("`no_rope_layers` is [1,1,0,1,1]")),
        (5, json!({"layer_types": null, "no_rope_layers": [1, 1, 1, 0]}), Some("`no_rope_layers`")),
        (
            3,
            json!({"layer_types": null, "no_rope_layers": null, "no_rope_layer_interval": 3}),
            Some("`no_rope_layer_interval` is 3"),
        ),
    ] {
        let folder = repeated("smollm3", n_layer, &settings);
        if let Some(part) = refusal {
            refused(folder.path(), &[part]);
            continue;
        }
        let graph = graph_of(folder.path());
        let turning = graph.ops.iter().filter_map(|op| match op {
            Op::Rope { rope, .. } => Some(graph.ropes[*rope].inv_freq.iter().any(|&inv_freq| inv_freq > 0.0)),
            _ => None,
        });
        // Of q and of k.
        let expected = [true, true, true, false, true].map(|turns| [turns; 2]).concat();
        assert_eq!(turning.collect::<Vec<_>>(), expected, "{settings}");
    }
}

#[test]
fn experts_are_weighed_as_config_says_and_dense_layers_come_first() {
    for (settings, expected) in [
        (json!({"norm_topk_prob": true}), Gating::Used),
        (json!({"norm_topk_prob": false}), Gating::All),
        (json!({"norm_topk_prob": null}), Gating::All),
    ] {
        let folder = repeated("qwen3moe", 2, &settings);
        let graph = graph_of(folder.path());
        let gating = graph.ops.iter().filter_map(|op| match op {
            Op::Route { gating, .. } => Some(*gating),
            _ => None,
        });
        assert_eq!(gating.collect::<Vec<_>>(), [expected; 2], "{settings}");
    }
    let folder = repeated("qwen3moe", 2, &json!({"mlp_only_layers": [1]}));
    refused(folder.path(), &["`mlp_only_layers` is [1]"]);
    let folder = repeated("qwen3moe", 2, &json!({"mlp_only_layers": [0]}));
    refused(folder.path(), &["no tensor `blk.0.ffn_gate.weight`"]);
}

#[test]
fn windows_that_files_do_not_have_are_noted() {
    let notes = |folder: &Path| convert::plan(folder, None).unwrap_or_else(|e| panic!("{e}")).0.notes;
    for (name, _) in MODELS {
        assert_eq!(notes(&folder(name)), Vec::<String>::new(), "{name}");
    }
    let window = ("\"sliding_window\": null", "\"sliding_window\": 100");
    for (name, also) in [
        ("mistral", None),
        ("phi3", None),
        // Settings of new and of old files.
        ("qwen2", Some(("\"full_attention\"", "\"sliding_attention\""))),
        ("qwen3moe", Some(("\"mlp_only_layers\"", "\"max_window_layers\": 0, \"mlp_only_layers\""))),
    ] {
        let copy = copy(name);
        let config = copy.path().join("config.json");
        replace(&config, window.0, window.1);
        if let Some((from, to)) = also {
            assert_eq!(notes(copy.path()), Vec::<String>::new(), "{name}: windows are not used");
            replace(&config, "\"use_sliding_window\": false", "\"use_sliding_window\": true");
            replace(&config, from, to);
        }
        let notes = notes(copy.path());
        assert!(notes.len() == 1 && notes[0].contains("beyond 100 tokens"), "{name}: {notes:?}");
    }
}

#[test]
fn settings_become_keys() {
    for (name, from, to, expected) in [
        (
            "gemma3",
            "\"query_pre_attn_scalar\": 16",
            "\"query_pre_attn_scalar\": 64",
            ("gemma3.attention.scale", "0.125"),
        ),
        // What Gemma's classes take where nothing is said.
        ("gemma3", "\"query_pre_attn_scalar\": 16,", "", ("gemma3.attention.scale", "0.0625")),
        ("gemma3", "\"rms_norm_eps\": 1e-06,", "", ("gemma3.attention.layer_norm_rms_epsilon", "0.000001")),
        (
            "gpt-oss",
            "\"truncate\": false",
            "\"truncate\": false, \"attention_factor\": 1.0",
            ("gpt-oss.rope.scaling.attn_factor", "0.7426"),
        ),
        (
            "gpt-oss",
            "\"truncate\": false",
            "\"truncate\": false, \"mscale\": 1.0, \"mscale_all_dim\": 1.0",
            ("gpt-oss.rope.scaling.attn_factor", "0.7426"),
        ),
        ("granite", "\"attention_multiplier\": 0.2,", "", ("granite.attention.scale", "1")),
    ] {
        let copy = copy(name);
        replace(&copy.path().join("config.json"), from, to);
        let path = copy.path().join("out.gguf");
        convert(copy.path(), None, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = texts(&Gguf::open(&path).expect("a file"));
        let (key, value) = expected;
        assert!(found.get(key).is_some_and(|found| found.starts_with(value)), "{name}: {key}: {:?}", found.get(key));
    }
}

#[test]
fn a_folder_of_both_forms_is_hugging_face_s() {
    // Mistral's are so: their params.json is for another program.
    let copy = copy("mistral");
    std::fs::write(copy.path().join("params.json"), r#"{"dim": 32, "n_heads": 4, "n_layers": 1}"#).expect("written");
    convert(copy.path(), None, &copy.path().join("out.gguf")).expect("converted");
}

/// Keeps the first bytes of a file.
fn cut(path: &Path, n: u64) {
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    assert!(file.metadata().expect("a length").len() > n);
    file.set_len(n).expect("cut");
}

/// Replaces bytes of a file by as many others.
pub(super) fn patch(path: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = std::fs::read(path).expect("read");
    let at = bytes.windows(from.len()).position(|window| window == from).expect("they are there");
    bytes.splice(at..at + from.len(), to.iter().copied());
    assert_eq!(from.len(), to.len());
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn a_pickle_with_code_in_it_is_refused_and_not_run() {
    let copy = copy("meta");
    // The same length, so that the archive stays one.
    patch(
        &copy.path().join("consolidated.00.pth"),
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cposix\nsystem###################\n",
    );
    refused(copy.path(), &["`posix.system", "is not run"]);
}

#[test]
fn the_first_llama_s_form_runs_in_four_bits() {
    let (_temporary, gguf) = converted("meta", Some("Q4_0"));
    assert_eq!(gguf.tensor("blk.0.attn_q.weight").map(|t| t.format_name()).as_deref(), Some("Q4_0"));
    let temporary = tempfile::tempdir().expect("a folder");
    let path = temporary.path().join("model.gguf");
    convert(&folder("meta"), Some("Q4_0"), &path).expect("converted");
    let text = super::commands::stdout(&[
        "generate",
        "--device",
        "cpu",
        "-n",
        "6",
        "--json",
        "-m",
        path.to_str().expect("UTF-8"),
        "The man",
    ]);
    assert!(text.contains("\"n_generated\":6"), "{text}");
}
