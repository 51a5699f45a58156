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

/// What a llama is made of.
struct Shape {
    name: &'static str,
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
    n_ctx: u32,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "llama-7b",
        n_layer: 32,
        n_embd: 4096,
        n_ff: 11008,
        n_head: 32,
        n_head_kv: 32,
        n_vocab: 32_000,
        n_ctx: 4096,
    },
    Shape {
        name: "llama-1b",
        n_layer: 16,
        n_embd: 2048,
        n_ff: 8192,
        n_head: 32,
        n_head_kv: 8,
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

/// Name and shape of each tensor; those of one dimension are norms.
fn tensors(s: &Shape) -> Vec<(String, Vec<usize>)> {
    let (d, kv) = (s.n_embd, s.n_embd / s.n_head * s.n_head_kv);
    let mut tensors = vec![("token_embd".to_string(), vec![s.n_vocab, d])];
    for il in 0..s.n_layer {
        let of_layer: [(&str, Vec<usize>); 9] = [
            ("attn_norm", vec![d]),
            ("attn_q", vec![d, d]),
            ("attn_k", vec![kv, d]),
            ("attn_v", vec![kv, d]),
            ("attn_output", vec![d, d]),
            ("ffn_norm", vec![d]),
            ("ffn_gate", vec![s.n_ff, d]),
            ("ffn_up", vec![s.n_ff, d]),
            ("ffn_down", vec![d, s.n_ff]),
        ];
        tensors.extend(of_layer.map(|(name, shape)| (format!("blk.{il}.{name}"), shape)));
    }
    tensors.extend([("output_norm".into(), vec![d]), ("output".into(), vec![s.n_vocab, d])]);
    tensors.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect()
}

fn write(s: &Shape, format: &'static Format, path: &Path) -> halfbyte::Result<()> {
    let mut w = GgufWriter::new();
    w.set("general.architecture", "llama").set("general.name", &*format!("{} with random weights", s.name));
    w.set("llama.block_count", s.n_layer as u32).set("llama.context_length", s.n_ctx);
    w.set("llama.embedding_length", s.n_embd as u32).set("llama.feed_forward_length", s.n_ff as u32);
    w.set("llama.attention.head_count", s.n_head as u32).set("llama.attention.head_count_kv", s.n_head_kv as u32);
    w.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    w.set("llama.rope.dimension_count", (s.n_embd / s.n_head) as u32).set("llama.vocab_size", s.n_vocab as u32);
    vocabulary(&mut w, s.n_vocab);
    let tensors = tensors(s);
    let f32 = quant::ALL[0];
    for (name, shape) in &tensors {
        w.tensor(name, shape, if shape.len() == 1 { f32.id } else { format.id });
    }
    let mut stream = w.create(path)?;
    let mut random = Random(1);
    for (name, shape) in &tensors {
        if let [n] = shape[..] {
            stream.write(&1.0f32.to_le_bytes().repeat(n))?;
            continue;
        }
        let (n, k) = (shape.iter().product::<usize>(), shape[1]);
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
