//! The GPU back end against the CPU's reference: each kernel and format over shapes, and whole graphs over variants.
//!
//! A case is a graph of a few ops over random weights. Inputs come through the graph's own embedding table in F32, so
//! that any row can be the input of any op; the same graph then runs on both back ends.

mod matrices;

use std::collections::HashMap;
use std::sync::Arc;

use halfbyte::backend::{Limits, Output, Program, Row, Step, Want, Weights, compare, cpu, gpu};
use halfbyte::graph::{Activation, AttentionOptions, Graph, GraphBuilder, Rope, RopeKind, Val};
use halfbyte::model::Model;
use halfbyte::quant::{self, Format, SharedBytes, Weight};

use crate::common::{self, nmse};
use crate::golden::{self, GEMMA3, SMOLLM2, TINY};
use crate::steps::Sequence;

/// Error of a kernel that computes in f32.
const NMSE_F32: f64 = 1e-7;
/// Error where x is rounded to 15 bits of the largest of 32 numbers, of which these tests have outliers of 20.
const NMSE_BYTES: f64 = 1e-5;
/// Error where keys and values are f16.
const NMSE_F16: f64 = 1e-5;

/// Named weights made by a case.
#[derive(Default)]
struct Made(HashMap<String, Weight>);

impl Weights for Made {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.0.get(name).cloned()
    }
}

/// A generator of numbers that look like weights and activations: mostly small, some outliers, some zeros.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn f32(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match self.next() % 64 {
            0 => 0.0,
            1 => unit * 20.0,
            _ => unit,
        }
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

impl Made {
    fn add(&mut self, name: &str, shape: &[usize], format: &'static Format, numbers: &mut Numbers) {
        let n: usize = shape.iter().product();
        // A matrix keeps the size of what it multiplies, as trained ones do; larger scores would make softmax a switch.
        let scale = if shape.len() == 2 && name != "table" { (shape[1] as f32).sqrt().recip() } else { 1.0 };
        let numbers: Vec<f32> = numbers.vec(n).into_iter().map(|x| x * scale).collect();
        let mut bytes = vec![0; format.bytes(n)];
        (format.quantize)(&numbers, None, &mut bytes);
        let bytes = SharedBytes::new(Arc::new(bytes));
        self.0.insert(format!("{name}.weight"), Weight { shape: shape.to_vec(), format, bytes });
    }

    fn graph(&self, build: impl Fn(&GraphBuilder<'_>) -> Val) -> Graph {
        let shapes = |name: &str| self.0.get(name).map(|w| w.shape.clone());
        let builder = GraphBuilder::new("case", &shapes);
        let logits = build(&builder);
        builder.finish(logits).expect("the case is a graph")
    }
}

fn format(name: &str) -> &'static Format {
    quant::ALL.iter().find(|f| f.name == name).expect("a known format")
}

fn limits(max_rows: usize) -> Limits {
    Limits { max_rows, max_outputs: max_rows, max_seqs: 4, n_ctx: 512, n_pages: 64 }
}

fn on_gpu(graph: &Graph, weights: &Made, limits: Limits, options: &gpu::Options) -> gpu::GpuProgram {
    gpu::compile(graph, weights, limits, options, &mut |_, _| ())
        .expect("a Vulkan adapter; ./scripts/test installs one")
}

fn on_cpu(graph: &Graph, weights: &Made, limits: Limits) -> cpu::CpuProgram {
    let options =
        cpu::Options { threads: 2, keep_tensors: true, kernels: cpu::Kernels::Reference, ..Default::default() };
    cpu::compile(graph, weights, limits, options).expect("the CPU takes any graph")
}

/// Runs rows with tokens 0.. of one sequence at positions `from`.. and returns the logits of all.
pub(crate) fn logits(program: &mut dyn Program, n: usize, from: usize) -> Vec<f32> {
    let pages: Vec<u32> = (0..16).map(|p| (p * 7 + 3) % 16).collect();
    let n_vocab = program.graph().n_vocab;
    let rows: Vec<Row> = (0..n).map(|i| Row { token: (i % n_vocab) as u32, pos: (from + i) as u32, seq: 0 }).collect();
    let outputs: Vec<u32> = (0..n as u32).collect();
    let step = Step { rows: &rows, pages: &[&pages], outputs: &outputs, want: Want::Logits };
    match program.run(&step).expect("the step runs") {
        Output::Logits(logits) => logits,
        other => panic!("asked for logits, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], limit: f64) {
    let expected: Vec<f64> = expected.iter().map(|&e| f64::from(e)).collect();
    let error = nmse(found, &expected);
    let worst = found
        .iter()
        .zip(&expected)
        .enumerate()
        .max_by(|(_, a), (_, b)| (f64::from(*a.0) - a.1).abs().total_cmp(&(f64::from(*b.0) - b.1).abs()));
    // Written so that NaN fails.
    assert!(error <= limit, "{what}: nmse {error:.1e} (limit {limit:.0e}), worst {worst:?}");
}

/// Everything in f32, whatever the adapter could do with less.
pub(crate) fn in_f32() -> gpu::Options {
    let mut options = gpu::Options { kv: gpu::KvFormat::F32, ..Default::default() };
    options.device.matrices = gpu::Matrices::Off;
    options.device.dp4a = Some(false);
    options
}

/// The variants of every kernel that this adapter can run.
pub(crate) fn variants() -> Vec<(&'static str, gpu::Options)> {
    let all = gpu::Options { keep_tensors: true, ..in_f32() };
    let plain = gpu::Options { fuse: false, ..all.clone() };
    let mut bare = gpu::Options { kv: gpu::KvFormat::F16, ..all.clone() };
    bare.device.subgroups = false;
    bare.device.f16 = false;
    bare.device.mapped = false;
    let mut hardware = all.clone();
    hardware.device.as_hardware = true;
    let mut four_bytes = hardware.clone();
    four_bytes.device.dp4a = Some(true);
    four_bytes.keep_tensors = false;
    // Norms are folded where no tensor has to exist.
    let folded = gpu::Options { keep_tensors: false, ..all.clone() };
    let hardware = gpu::Options { keep_tensors: false, ..hardware };
    vec![
        ("fused", all),
        ("folded", folded),
        ("plain", plain),
        ("no subgroups, no f16", bare),
        ("kernels of hardware", hardware),
        ("four bytes at a time", four_bytes),
    ]
}

/// Error of a variant.
pub(crate) fn limit(options: &gpu::Options) -> f64 {
    match options {
        gpu::Options { kv: gpu::KvFormat::F16, .. } => NMSE_F16,
        gpu::Options { device: gpu::DeviceOptions { dp4a: Some(true), .. }, .. } => NMSE_BYTES,
        _ => NMSE_F32,
    }
}

/// y = W·x for one row and several, W of every format; tails of every kind for one of them.
#[test]
fn matmul_of_each_format() {
    let edges = [(1, 256), (2, 512), (31, 256), (33, 768), (127, 256), (257, 2048), (576, 1536)];
    for format in quant::ALL {
        let shapes = if format.name == "Q4_0" { &edges[..] } else { &edges[3..4] };
        for &(m, k) in shapes {
            let mut numbers = Numbers(m as u64);
            let mut weights = Made::default();
            weights.add("table", &[m, k], self::format("F32"), &mut numbers);
            weights.add("head", &[m, k], format, &mut numbers);
            let graph = weights.graph(|g| g.matmul("head", g.output_rows(g.embed("table", m, k, 1.0)), m));
            let mut expected = on_cpu(&graph, &weights, limits(64));
            for (variant, options) in variants() {
                let mut found = on_gpu(&graph, &weights, limits(64), &options);
                for n in [1, 2, 7, 33] {
                    let what = format!("{format} [{m}, {k}], {n} rows, {variant}");
                    assert_close(&what, &logits(&mut found, n, 0), &logits(&mut expected, n, 0), limit(&options));
                }
            }
        }
    }
}

/// A transformer block with everything that an architecture can choose.
#[derive(Debug, Clone, Copy)]
struct Block {
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_rot: usize,
    kind: RopeKind,
    head_norms: bool,
    post_norms: bool,
    biases: bool,
    act: Activation,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
}

const BLOCKS: &[Block] = &[
    Block {
        n_embd: 64,
        n_ff: 96,
        n_head: 2,
        n_head_kv: 1,
        head_dim: 64,
        n_rot: 64,
        kind: RopeKind::Norm,
        head_norms: false,
        post_norms: false,
        biases: false,
        act: Activation::Silu,
        window: None,
        softcap: None,
        sinks: true,
    },
    Block {
        n_embd: 576,
        n_ff: 160,
        n_head: 4,
        n_head_kv: 2,
        head_dim: 80,
        n_rot: 40,
        kind: RopeKind::Neox,
        head_norms: false,
        post_norms: false,
        biases: true,
        act: Activation::Silu,
        window: Some(5),
        softcap: Some(5.0),
        sinks: false,
    },
    Block {
        n_embd: 640,
        n_ff: 256,
        n_head: 3,
        n_head_kv: 1,
        head_dim: 256,
        n_rot: 256,
        kind: RopeKind::Neox,
        head_norms: true,
        post_norms: true,
        biases: false,
        act: Activation::Gelu,
        window: Some(33),
        softcap: None,
        sinks: false,
    },
    Block {
        n_embd: 96,
        n_ff: 32,
        n_head: 8,
        n_head_kv: 8,
        head_dim: 4,
        n_rot: 4,
        kind: RopeKind::Norm,
        head_norms: true,
        post_norms: false,
        biases: true,
        act: Activation::Gelu,
        window: None,
        softcap: Some(2.0),
        sinks: true,
    },
];

impl Block {
    const N_VOCAB: usize = 67;

    fn weights(&self, numbers: &mut Numbers) -> Made {
        let mut made = Made::default();
        let (d, q, kv) = (self.n_embd, self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        let (f32, q8_0) = (format("F32"), format("Q8_0"));
        made.add("table", &[Self::N_VOCAB, d], f32, numbers);
        // v in another format than q and k: such a layer cannot be one stacked matrix.
        for (name, rows, cols, format) in [
            ("attn_q", q, d, q8_0),
            ("attn_k", kv, d, q8_0),
            ("attn_v", kv, d, f32),
            ("ffn_gate", self.n_ff, d, q8_0),
            ("ffn_up", self.n_ff, d, q8_0),
            ("ffn_down", d, self.n_ff, q8_0),
        ] {
            made.add(&format!("blk.0.{name}"), &[rows, cols], format, numbers);
        }
        let output_format = if q % 32 == 0 { q8_0 } else { f32 };
        made.add("blk.0.attn_output", &[d, q], output_format, numbers);
        for (name, n) in [
            ("attn_norm", d),
            ("ffn_norm", d),
            ("post_attention_norm", d),
            ("post_ffw_norm", d),
            ("attn_q_norm", self.head_dim),
            ("attn_k_norm", self.head_dim),
            ("attn_sinks", self.n_head),
        ] {
            made.add(&format!("blk.0.{name}"), &[n], f32, numbers);
        }
        made.add("output", &[Self::N_VOCAB, d], f32, numbers);
        if self.biases {
            for (name, n) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv), ("attn_output", d)] {
                made.add("bias", &[n], f32, numbers);
                let bias = made.0.remove("bias.weight").expect("just made");
                made.0.insert(format!("blk.0.{name}.bias"), bias);
            }
        }
        made
    }

    fn build(&self, g: &GraphBuilder<'_>) -> Val {
        let inv_freq = (0..self.n_rot / 2).map(|i| 1e4_f64.powf(-2.0 * i as f64 / self.n_rot as f64)).collect();
        let rope = g.rope(Rope { kind: self.kind, inv_freq, scale: 1.0 });
        let b = g.block(0);
        let x = g.embed("table", Self::N_VOCAB, self.n_embd, 1.5);
        let h = b.rms_norm("attn_norm", x, 1e-5);
        let (q_len, kv_len) = (self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        let mut q = b.matmul("attn_q", h, q_len).heads(self.n_head);
        let mut k = b.matmul("attn_k", h, kv_len).heads(self.n_head_kv);
        let v = b.matmul("attn_v", h, kv_len).heads(self.n_head_kv);
        if self.head_norms {
            q = b.rms_norm("attn_q_norm", q, 1e-6);
            k = b.rms_norm("attn_k_norm", k, 1e-6);
        }
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let options = AttentionOptions {
            scale,
            window: self.window,
            softcap: self.softcap,
            sinks: self.sinks.then_some("attn_sinks"),
        };
        let mut o = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        o = b.matmul("attn_output", o, self.n_embd);
        if self.post_norms {
            o = b.rms_norm("post_attention_norm", o, 1e-6);
        }
        let x = b.add(x, o);
        let h = b.rms_norm("ffn_norm", x, 1e-5);
        let gate = b.matmul("ffn_gate", h, self.n_ff);
        let up = b.matmul("ffn_up", h, self.n_ff);
        let mut o = b.matmul("ffn_down", b.gated(gate, up, self.act), self.n_embd);
        if self.post_norms {
            o = b.rms_norm("post_ffw_norm", o, 1e-6);
        }
        let x = g.output_rows(b.add(x, o));
        g.softcap(g.matmul("output", x, Self::N_VOCAB), 30.0)
    }
}

/// Rows, and the position of the first.
const STEPS: [(usize, usize); 12] = [
    (1, 0),
    (64, 0),
    (33, 64),
    (1, 97),
    (2, 98),
    (64, 100),
    (64, 164),
    (28, 228),
    (1, 256),
    (1, 257),
    (8, 258),
    (9, 266),
];

/// Every kernel but matmul, in blocks of all kinds; a prompt, then rows that continue it, one and several at a time: a few
/// pages in, and so far that positions are split over workgroups.
#[test]
fn blocks_of_all_kinds() {
    for (i, block) in BLOCKS.iter().enumerate() {
        let weights = block.weights(&mut Numbers(100 + i as u64));
        let graph = weights.graph(|g| block.build(g));
        let mut expected = on_cpu(&graph, &weights, limits(64));
        for (variant, options) in variants() {
            let limit = limit(&options);
            let mut found = on_gpu(&graph, &weights, limits(64), &options);
            for (n, from) in STEPS {
                let what = format!("{block:?}, {n} rows from {from}, {variant}");
                assert_close(&what, &logits(&mut found, n, from), &logits(&mut expected, n, from), limit);
            }
        }
    }
}

/// Without fusion every tensor of the graph exists, and each agrees with the CPU's.
#[test]
fn every_tensor_agrees() {
    let block = &BLOCKS[1];
    let weights = block.weights(&mut Numbers(7));
    let graph = weights.graph(|g| block.build(g));
    let options = gpu::Options { fuse: false, keep_tensors: true, ..in_f32() };
    let mut found = on_gpu(&graph, &weights, limits(16), &options);
    let mut expected = on_cpu(&graph, &weights, limits(16));
    let rows: Vec<Row> = (0..9).map(|i| Row { token: i, pos: i, seq: 0 }).collect();
    let step = Step { rows: &rows, pages: &[&[3]], outputs: &[0, 8], want: Want::Logits };
    let difference = compare::first_difference(&mut found, &mut expected, &step, NMSE_F32).expect("both run");
    assert!(difference.is_none(), "{}", difference.expect("there is one"));
    for value in graph.values.iter().filter(|value| value.width > 0) {
        assert!(found.tensor(&value.name).expect("it can be read").is_some(), "{} was not kept", value.name);
    }
}

fn compile(model: &Model, limits: Limits, options: &gpu::Options) -> gpu::GpuProgram {
    gpu::compile(&model.graph, model, limits, options, &mut |_, _| ())
        .expect("a Vulkan adapter; ./scripts/test installs one")
}

#[test]
fn tiny_models_are_golden() {
    let exact = in_f32();
    for &(name, to_llama_cpp) in TINY {
        let model = golden::tiny(name);
        golden::check_tiny(&mut compile(&model, golden::limits(64, 32), &exact), name, 1e-8, to_llama_cpp.max(1e-8));
    }
}

/// Keys and values in f16, which two ways of computing with them round alike; with and without the checks of shaders.
#[test]
fn tiny_models_are_golden_with_f16_keys_and_values() {
    let mut options = gpu::Options::default();
    for (f16, subgroups, checked) in [(true, true, true), (false, false, false)] {
        options.device.f16 = f16;
        options.device.subgroups = subgroups;
        options.checked = checked;
        for name in ["llama-q4_0", "gemma3-q8_0"] {
            let model = golden::tiny(name);
            golden::check_tiny(&mut compile(&model, golden::limits(64, 32), &options), name, 1e-5, 1e-3);
        }
    }
}

fn check_real(file: &str, name: &str, n_ctx: usize) {
    let model = golden::load(&common::real_model(file));
    let mut program = compile(&model, golden::limits(n_ctx, 256), &gpu::Options::default());
    golden::check_real(&mut program, name, 0.03);
}

#[test]
fn smollm2_moon_is_golden() {
    check_real(SMOLLM2, "smollm2-moon", 64);
}

#[test]
fn smollm2_chat_is_golden() {
    check_real(SMOLLM2, "smollm2-chat", 128);
}

#[test]
fn smollm2_long_is_golden() {
    check_real(SMOLLM2, "smollm2-long", 320);
}

#[test]
fn gemma3_moon_is_golden() {
    check_real(GEMMA3, "gemma3-moon", 64);
}

#[test]
fn gemma3_long_is_golden() {
    check_real(GEMMA3, "gemma3-long", 1280);
}

/// With keys and values in f32 nothing on the GPU is f16.
#[test]
fn smollm2_is_golden_in_f32() {
    let model = golden::load(&common::real_model(SMOLLM2));
    let options = in_f32();
    golden::check_real(&mut compile(&model, golden::limits(64, 64), &options), "smollm2-moon", 0.01);
}

const PROMPT: &[u32] = &[1, 280, 17, 263, 99, 281, 12, 285, 44, 270, 265, 2, 77, 140, 260, 261, 262, 263, 264, 265];

#[test]
fn a_prompt_in_chunks_is_the_same_prompt() {
    let model = golden::tiny("llama-q4_1");
    let options = in_f32();
    let last = [PROMPT.len() - 1];
    let mut program = compile(&model, golden::limits(64, 32), &options);
    let whole = Sequence::new(64).append(&mut program, PROMPT, usize::MAX, &last).remove(0);
    for chunk in [7, 1] {
        let parts = Sequence::new(64).append(&mut program, PROMPT, chunk, &last).remove(0);
        assert_close(&format!("chunks of {chunk}"), &parts, &whole, 1e-8);
    }
}

#[test]
fn sequences_in_one_step_do_not_see_one_another() {
    let model = golden::tiny("llama-q4_1");
    let options = in_f32();
    let mut program = compile(&model, Limits { n_pages: 8, ..golden::limits(64, 32) }, &options);
    let mut sequences: Vec<Sequence> = [[0, 5], [3, 1], [7, 2]].map(|pages| Sequence::on(pages.to_vec())).into();
    let mut alone = Vec::new();
    for (i, sequence) in sequences.iter_mut().enumerate() {
        let tokens = &PROMPT[i..15 + i];
        alone.push(sequence.append(&mut program, tokens, usize::MAX, &[14]).remove(0));
        sequence.len -= 1;
    }
    let rows: Vec<Row> = (0..3).map(|i| Row { token: PROMPT[14 + i], pos: 14, seq: i as u32 }).collect();
    let pages: Vec<&[u32]> = sequences.iter().map(|s| s.pages.as_slice()).collect();
    let step = Step { rows: &rows, pages: &pages, outputs: &[0, 1, 2], want: Want::Logits };
    let Output::Logits(together) = program.run(&step).expect("the step runs") else { panic!("logits were wanted") };
    for (i, alone) in alone.iter().enumerate() {
        let found = &together[i * alone.len()..][..alone.len()];
        assert_close(&format!("sequence {i}"), found, alone, 1e-8);
    }
    let step = Step { want: Want::Argmax, ..step };
    let best = alone.iter().map(|logits| Some(crate::steps::top(logits))).collect();
    assert_eq!(program.run(&step).expect("the step runs"), Output::Tokens(best));
}

/// Weights that fit no binding are split; the sums stay the same.
#[test]
fn a_binding_limit_of_1_mib_changes_nothing() {
    let model = golden::load(&common::real_model(SMOLLM2));
    let mut options = gpu::Options::default();
    let limits = golden::limits(64, 16);
    let tokens = [504, 808, 555, 335, 260, 6783, 436];
    let run = |options: &gpu::Options| {
        let mut program = compile(&model, limits, options);
        let prompt = Sequence::new(64).append(&mut program, &tokens, usize::MAX, &[6]).remove(0);
        let one = Sequence::new(64).append(&mut program, &tokens[..1], 1, &[0]).remove(0);
        (program.info().counters, prompt, one)
    };
    let (whole_counters, whole_prompt, whole_one) = run(&options);
    options.device.max_binding_bytes = Some(1 << 20);
    let (split_counters, split_prompt, split_one) = run(&options);
    assert_ne!(whole_counters, split_counters, "nothing was split");
    assert_close("prompt", &split_prompt, &whole_prompt, 1e-12);
    assert_close("one row", &split_one, &whole_one, 1e-12);
}

/// Weights that the CPU writes where they lie, and those that the device copies from staging buffers.
#[test]
fn mapped_weights_are_those_that_are_copied() {
    let model = golden::load(&common::real_model(SMOLLM2));
    let run = |mapped: bool| {
        let mut options = gpu::Options::default();
        options.device.mapped = mapped;
        let (mut last, mut total) = (0, 0);
        let mut progress = |done, of| {
            assert!(done >= last && done <= of, "{last}, then {done} of {of} bytes");
            (last, total) = (done, of);
        };
        let limits = golden::limits(64, 16);
        let mut program = gpu::compile(&model.graph, &model, limits, &options, &mut progress).expect("an adapter");
        assert!(last == total && total > 90_000_000, "{last} of {total} bytes");
        Sequence::new(64).append(&mut program, &[504, 808, 555, 335, 260, 6783, 436], usize::MAX, &[6]).remove(0)
    };
    assert_eq!(run(true), run(false));
}

/// Runs rows 0.. of one sequence from position `from` on, and returns what the step did.
fn counters(program: &mut gpu::GpuProgram, n: usize, from: u32) -> HashMap<&'static str, u64> {
    let rows: Vec<Row> = (0..n).map(|i| Row { token: PROMPT[i], pos: from + i as u32, seq: 0 }).collect();
    let outputs = [n as u32 - 1];
    let pages: Vec<u32> = (0..program.limits().n_pages as u32).collect();
    let step = Step { rows: &rows, pages: &[&pages], outputs: &outputs, want: Want::Argmax };
    program.run(&step).expect("the step runs");
    program.info().counters.into_iter().collect()
}

/// One submit, one pass, nothing created.
#[test]
fn a_step_is_one_submit_of_one_pass() {
    for name in ["llama-q4_0", "gemma3-q8_0", "llama-q4_k_s", "mixtral-q8_0", "gpt-oss-f32"] {
        let model = golden::tiny(name);
        let mut program = compile(&model, golden::limits(64, 32), &gpu::Options::default());
        for n in [1, 2, 20] {
            let found = counters(&mut program, n, 0);
            assert_eq!((found["submits"], found["passes"], found["created"]), (1, 1, 0), "{name}, {n} rows");
        }
    }
}

/// A token takes five dispatches a llama layer, seven a gemma3 layer, nine an olmo2 layer (two for norms of all of q and of k), and
/// eight with a mixture of experts (logits, choice and sum beside the matrices), twelve where all rows use one more (its gate's logit,
/// two for its matrices, and its gate); one more where attention is split; and besides them the embedding, the logits and two for the
/// best of them. Also where q, k and v have two formats.
#[test]
fn a_token_takes_few_dispatches() {
    let models = [
        ("llama-q4_0", golden::tiny("llama-q4_0"), 5, 2),
        ("mixtral-q8_0", golden::tiny("mixtral-q8_0"), 8, 2),
        ("smollm3-f32", golden::tiny("smollm3-f32"), 5, 4),
        ("olmo2-f32", golden::tiny("olmo2-f32"), 9, 1),
        ("qwen2moe-f32", golden::tiny("qwen2moe-f32"), 12, 2),
        // Its layers see less than a split.
        ("gemma3-q8_0", golden::tiny("gemma3-q8_0"), 7, 0),
        (GEMMA3, golden::load(&common::real_model(GEMMA3)), 7, 18),
    ];
    for (name, model, per_layer, n_split) in models {
        let mut program = compile(&model, golden::limits(1024, 32), &gpu::Options::default());
        let layers = model.graph.kv.len() as u64;
        let unsplit = counters(&mut program, 1, 0)["dispatches"];
        // A vocabulary that fits no binding takes a dispatch more to embed, and one to score.
        let beyond = unsplit - per_layer * layers;
        assert!(beyond == 4 || (beyond == 6 && name == GEMMA3), "{name}: {unsplit} for {layers} layers");
        let split = counters(&mut program, 1, 900)["dispatches"];
        assert_eq!(split, unsplit + n_split, "{name}: where attention is split");
    }
}

#[test]
fn an_adapter_that_is_not_there_is_an_error_with_a_hint() {
    let model = golden::tiny("llama-q4_0");
    let mut options = gpu::Options::default();
    options.device.name = Some("no such adapter".into());
    let error = gpu::compile(&model.graph, &model, golden::limits(64, 32), &options, &mut |_, _| ());
    let error = error.err().expect("there is no such adapter");
    assert!(error.to_string().contains("no such adapter"), "{error}");
    assert!(error.hint().is_some());
}
