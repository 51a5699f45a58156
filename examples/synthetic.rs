//! Writes a GGUF file in the shape of a well-known model, with random weights: to measure speed and memory without the model.
//!
//! ```text
//! cargo run --release --example synthetic -- llama-7b Q4_0 llama-7b-q4_0.gguf
//! ```
//!
//! What it generates is noise, at the speed of the real one: the same tensors, formats and sizes. Weights have the spread that
//! keeps activations near 1. It is written as it is made, and needs no memory to speak of.

#![expect(clippy::print_stderr, reason = "a program of its own")]

use std::path::Path;
use std::process::ExitCode;

use halfbyte::gguf::GgufWriter;
use halfbyte::quant::{self, Format};

/// What a model is made of.
struct Shape {
    name: &'static str,
    /// GGUF's name of the architecture.
    arch: &'static str,
    n_layer: usize,
    n_embd: usize,
    /// Of a feed-forward layer, or of an expert.
    n_ff: usize,
    /// Experts, and how many of them a row uses.
    experts: Option<[usize; 2]>,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_vocab: usize,
    n_ctx: u32,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "llama-7b",
        arch: "llama",
        n_layer: 32,
        n_embd: 4096,
        n_ff: 11008,
        experts: None,
        n_head: 32,
        n_head_kv: 32,
        head_dim: 128,
        n_vocab: 32_000,
        n_ctx: 4096,
    },
    Shape {
        name: "llama-1b",
        arch: "llama",
        n_layer: 16,
        n_embd: 2048,
        n_ff: 8192,
        experts: None,
        n_head: 32,
        n_head_kv: 8,
        head_dim: 64,
        n_vocab: 32_000,
        n_ctx: 4096,
    },
    // Layers of Qwen3-30B-A3B, with a quarter of the experts and half of those that are used.
    Shape {
        name: "qwen3moe",
        arch: "qwen3moe",
        n_layer: 16,
        n_embd: 2048,
        n_ff: 768,
        experts: Some([32, 4]),
        n_head: 32,
        n_head_kv: 4,
        head_dim: 128,
        n_vocab: 32_000,
        n_ctx: 4096,
    },
    // Some layers of gpt-oss-20b.
    Shape {
        name: "gpt-oss",
        arch: "gpt-oss",
        n_layer: 4,
        n_embd: 2880,
        n_ff: 2880,
        experts: Some([32, 4]),
        n_head: 64,
        n_head_kv: 8,
        head_dim: 64,
        n_vocab: 32_000,
        n_ctx: 4096,
    },
];

/// Weights that are quantized once, and written again and again from different places.
const POOL: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names = |names: Vec<&str>| names.join(", ");
    let [shape, format, path] = &args[..] else {
        eprintln!("usage: synthetic SHAPE FORMAT OUT.gguf");
        eprintln!("shapes: {}", names(SHAPES.iter().map(|s| s.name).collect()));
        eprintln!("formats: {}", names(quant::ALL.iter().map(|f| f.name).collect()));
        return ExitCode::from(2);
    };
    let shape = SHAPES.iter().find(|s| s.name == shape);
    let format = quant::by_name(format);
    let (Some(shape), Some(format)) = (shape, format) else {
        eprintln!("error: no such shape or format; without arguments they are listed");
        return ExitCode::from(2);
    };
    match write(shape, format, Path::new(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Name and shape of each tensor; those of one dimension are norms, biases and sinks.
fn tensors(s: &Shape) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("token_embd.weight".to_string(), vec![s.n_vocab, s.n_embd])];
    for il in 0..s.n_layer {
        tensors.extend(layer(s).into_iter().map(|(name, shape)| (format!("blk.{il}.{name}"), shape)));
    }
    tensors
        .extend([("output_norm.weight".into(), vec![s.n_embd]), ("output.weight".into(), vec![s.n_vocab, s.n_embd])]);
    tensors
}

fn layer(s: &Shape) -> Vec<(String, Vec<usize>)> {
    let (d, f, q, kv) = (s.n_embd, s.n_ff, s.n_head * s.head_dim, s.n_head_kv * s.head_dim);
    let is_gpt_oss = s.arch == "gpt-oss";
    let mut tensors = Vec::new();
    let mut norm = |name: &str, n: usize| tensors.push((format!("{name}.weight"), vec![n]));
    norm("attn_norm", d);
    norm(if is_gpt_oss { "post_attention_norm" } else { "ffn_norm" }, d);
    match s.arch {
        "qwen3moe" => ["attn_q_norm", "attn_k_norm"].into_iter().for_each(|name| norm(name, s.head_dim)),
        "gpt-oss" => norm("attn_sinks", s.n_head),
        _ => {}
    }
    let mut matrix = |name: &str, shape: Vec<usize>| {
        if is_gpt_oss {
            tensors.push((format!("{name}.bias"), shape[..shape.len() - 1].to_vec()));
        }
        tensors.push((format!("{name}.weight"), shape));
    };
    for (name, shape) in [("q", [q, d]), ("k", [kv, d]), ("v", [kv, d]), ("output", [d, q])] {
        matrix(&format!("attn_{name}"), shape.to_vec());
    }
    if let Some([n_expert, _]) = s.experts {
        matrix("ffn_gate_inp", vec![n_expert, d]);
    }
    for (name, [m, k]) in [("gate", [f, d]), ("up", [f, d]), ("down", [d, f])] {
        match s.experts {
            None => matrix(&format!("ffn_{name}"), vec![m, k]),
            Some([n_expert, _]) => matrix(&format!("ffn_{name}_exps"), vec![n_expert, m, k]),
        }
    }
    tensors
}

/// The format of a tensor, in a file whose matrices have `format`. Those of MXFP4 have it for experts only.
fn format_of(name: &str, shape: &[usize], format: &'static Format) -> &'static Format {
    let by_name = |name| quant::by_name(name).expect("a format");
    match shape.len() {
        _ if name.ends_with(".bias") || name.contains("ffn_gate_inp") => by_name("F32"),
        1 => by_name("F32"),
        2 if format.name == "MXFP4" => by_name("Q8_0"),
        _ => format,
    }
}

/// The keys of the architecture.
fn keys(s: &Shape, w: &mut GgufWriter) {
    let key = |key: &str| format!("{}.{key}", s.arch);
    let mut count = |name: &str, n: usize| _ = w.set(&key(name), n as u32);
    count("block_count", s.n_layer);
    count("embedding_length", s.n_embd);
    count("feed_forward_length", s.n_ff);
    count("attention.head_count", s.n_head);
    count("attention.head_count_kv", s.n_head_kv);
    count("attention.key_length", s.head_dim);
    count("attention.value_length", s.head_dim);
    count("rope.dimension_count", s.head_dim);
    count("vocab_size", s.n_vocab);
    if let Some([n_expert, n_used]) = s.experts {
        count("expert_count", n_expert);
        count("expert_used_count", n_used);
        count("expert_feed_forward_length", s.n_ff);
    }
    if s.arch == "gpt-oss" {
        count("attention.sliding_window", 128);
    }
    w.set(&key("context_length"), s.n_ctx).set(&key("attention.layer_norm_rms_epsilon"), 1e-5f32);
}

fn write(s: &Shape, format: &'static Format, path: &Path) -> halfbyte::Result<()> {
    let mut w = GgufWriter::new();
    w.set("general.architecture", s.arch).set("general.name", &*format!("{} with random weights", s.name));
    keys(s, &mut w);
    vocabulary(&mut w, s.n_vocab);
    let tensors = tensors(s);
    for (name, shape) in &tensors {
        w.tensor(name, shape, format_of(name, shape, format).id);
    }
    let mut stream = w.create(path)?;
    let mut random = Random(1);
    for (name, shape) in &tensors {
        let n = shape.iter().product::<usize>();
        if shape.len() == 1 || name.ends_with(".bias") {
            // Norms of 1, biases and sinks of 0.
            let number = if name.contains("norm") { 1.0f32 } else { 0.0 };
            stream.write(&number.to_le_bytes().repeat(n))?;
            continue;
        }
        let format = format_of(name, shape, format);
        let k = shape[shape.len() - 1];
        // A uniform number in ±√3 has a variance of 1.
        let spread = (3.0 / k as f32).sqrt() * if name.starts_with("token_embd") { k as f32 } else { 1.0 }.sqrt();
        let numbers: Vec<f32> = (0..POOL).map(|_| (2.0 * random.uniform() - 1.0) * spread).collect();
        let mut pool = vec![0; format.bytes(POOL)];
        (format.quantize)(&numbers, None, &mut pool);
        let mut left = format.bytes(n);
        while left > 0 {
            let start = (random.uniform() * (pool.len() / format.block_bytes) as f32) as usize * format.block_bytes;
            let piece = &pool[start.min(pool.len() - format.block_bytes)..];
            let piece = &piece[..piece.len().min(left)];
            stream.write(piece)?;
            left -= piece.len();
        }
    }
    stream.finish()?;
    Ok(())
}

/// A vocabulary of the right size: bytes, and words that are numbers.
fn vocabulary(w: &mut GgufWriter, n_vocab: usize) {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = (0..).map(|i| format!("▁{i}"));
    let tokens: Vec<String> = special.into_iter().chain(bytes).chain(words).take(n_vocab).collect();
    let types: Vec<i32> =
        (0..n_vocab).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 259 { 6 } else { 1 })).collect();
    let scores: Vec<f32> = (0..n_vocab).map(|i| if i < 259 { 0.0 } else { 258.0 - i as f32 }).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    w.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", &tokens[..]);
    w.set("tokenizer.ggml.scores", &scores[..]).set("tokenizer.ggml.token_type", &types[..]);
    w.set("tokenizer.ggml.bos_token_id", 1u32).set("tokenizer.ggml.eos_token_id", 2u32);
    w.set("tokenizer.ggml.unknown_token_id", 0u32);
}

/// xorshift64*. Source: Vigna, <https://arxiv.org/abs/1402.6246>.
struct Random(u64);

impl Random {
    /// In [0, 1).
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 24) as f32
    }
}
