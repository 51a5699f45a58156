//! The CPU back end: golden runs, and the promise that a row's bits depend on nothing but the row.

use halfbyte::backend::compare::first_difference;
use halfbyte::backend::cpu::{self, CpuProgram, Isa, Kernels, Options};
use halfbyte::backend::{KvFormat, Limits, Output, Program, Row, Step, Ticket, Want, Weights};
use halfbyte::graph::{Graph, Op, RopeKind};
use halfbyte::model::Model;
use halfbyte::quant;
use proptest::prelude::*;
use proptest::sample::select;

use crate::golden::{self, GEMMA3, SMOLLM2, TINY};
use crate::ops::AttentionCase;
use crate::{attention, common, ops, shapes, steps};

/// Mean distance of real models' listed logits from f64.
const REAL: f64 = 0.001;
/// Normalized mean squared error of tiny models' logits to f64.
const TINY_NMSE: f64 = 1e-10;
/// Of one op: sums of up to 9,000 products in f32.
const OP_NMSE: f64 = 1e-12;
/// The same limits for kernels that round activations to 16 bits, and the KV cache to half precision.
const FAST_REAL: f64 = 0.01;
const FAST_TINY_NMSE: f64 = 1e-6;
const FAST_OP_NMSE: f64 = 1e-7;
/// Of products, see [`ops::ProductError`]. What rounding to 16 bits adds is 8e-11 in the mean, and for one product alone
/// normally distributed: the limit is seven of its deviations.
const PRODUCT: f64 = 1e-13;
const FAST_PRODUCT: f64 = 4e-9;

/// How the fast path stores keys and values, with the error of each.
const KV_FORMATS: [(KvFormat, f64); 2] = [(KvFormat::F16, attention::NMSE_F16), (KvFormat::Q8_0, attention::NMSE_Q8_0)];
/// A row alone is multiplied by other kernels, with 16-bit activations, than a row among others.
const FAST_ALONE: f64 = FAST_TINY_NMSE;

/// The fast kernels of each instruction set that this processor has.
fn fast_kernels() -> impl Iterator<Item = Kernels> {
    let kernels: Vec<Kernels> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Kernels::Only).collect();
    assert_eq!(kernels.is_empty(), Isa::best().is_none(), "the best one is one of them");
    kernels.into_iter()
}

/// What computes, with its limit.
fn all_kernels(reference: f64, fast: f64) -> impl Iterator<Item = (Kernels, f64)> {
    std::iter::once((Kernels::Reference, reference)).chain(fast_kernels().map(move |kernels| (kernels, fast)))
}

fn compile(model: &Model, limits: Limits, kernels: Kernels) -> CpuProgram {
    let options = Options { threads: 2, kernels, ..Options::default() };
    cpu::compile(&model.graph, model, limits, options).expect("the model compiles")
}

fn check_real(file: &str, name: &str, n_ctx: usize) {
    let model = golden::load(&common::real_model(file));
    for (kernels, limit) in all_kernels(REAL, FAST_REAL) {
        // Steps of as many rows as there are, for the kernels of many rows.
        let limits = Limits { max_outputs: 256, ..golden::limits(n_ctx, 256) };
        golden::check_real(&mut compile(&model, limits, kernels), name, limit);
    }
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

#[test]
fn tiny_models_are_golden() {
    for &(name, to_llama_cpp) in TINY {
        let model = golden::tiny(name);
        for (kernels, limit) in all_kernels(TINY_NMSE, FAST_TINY_NMSE) {
            // As the logits were made.
            let options = Options { threads: 2, kernels, kv: KvFormat::F32, ..Options::default() };
            let mut program = cpu::compile(&model.graph, &model, golden::limits(64, 32), options).expect("it compiles");
            golden::check_tiny(&mut program, name, limit, to_llama_cpp);
        }
    }
}

/// Runs a check of single ops with all kernels: with what compiles them, and their limit.
pub(crate) fn check_op(check: impl Fn(ops::Compile<'_>, f64)) {
    check_op_within([OP_NMSE, FAST_OP_NMSE], check);
}

/// The same of products.
pub(crate) fn check_product(check: impl Fn(ops::Compile<'_>, f64)) {
    check_op_within([PRODUCT, FAST_PRODUCT], check);
}

fn check_op_within([reference, fast]: [f64; 2], check: impl Fn(ops::Compile<'_>, f64)) {
    for (kernels, limit) in all_kernels(reference, fast) {
        let options = Options { threads: 2, keep_tensors: true, kernels, kv: KvFormat::F32 };
        let compile = |graph: &Graph, weights: &dyn Weights, limits: Limits| -> Box<dyn Program> {
            Box::new(cpu::compile(graph, weights, limits, options).expect("the case compiles"))
        };
        check(&compile, limit);
    }
}

/// With keys and values that are rounded.
fn check_attention_in_formats(formats: &[(KvFormat, f64)], case: AttentionCase, seed: u64) {
    for (kernels, &(kv, limit)) in
        fast_kernels().flat_map(|kernels| formats.iter().map(move |format| (kernels, format)))
    {
        let options = Options { threads: 2, keep_tensors: true, kernels, kv };
        let compile = |graph: &Graph, weights: &dyn Weights, limits: Limits| -> Box<dyn Program> {
            Box::new(cpu::compile(graph, weights, limits, options).expect("the case compiles"))
        };
        ops::check_attention(&compile, case, seed, limit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matmul_is_its_formula(
        (format, shape) in select(quant::ALL).prop_flat_map(|f| (Just(f), shapes::matrix(f.block_len))),
        t in shapes::rows(),
        seed in any::<u64>(),
    ) {
        check_product(|compile, limit| ops::check_matmul(compile, format, t, shape, seed, limit));
    }

    #[test]
    fn embed_is_its_formula(format in select(quant::ALL), width in shapes::dimension(), seed in any::<u64>()) {
        check_op(|compile, limit| ops::check_embed(compile, format, width.next_multiple_of(format.block_len), seed, limit));
    }

    #[test]
    fn rms_norm_is_its_formula(
        t in shapes::rows(),
        heads in select(&[1, 4, 9][..]),
        width in shapes::dimension(),
        seed in any::<u64>(),
    ) {
        check_op(|compile, limit| ops::check_rms_norm(compile, t, heads, width, seed, limit));
    }

    #[test]
    fn elementwise_ops_are_their_formulas(t in shapes::rows(), width in shapes::dimension(), seed in any::<u64>()) {
        check_op(|compile, limit| ops::check_elementwise(compile, t, width, seed, limit));
    }

    #[test]
    fn attention_is_its_formula(
        lens in [1usize..=129, 1usize..=129],
        (n_head, n_head_kv) in select(&[(1, 1), (4, 4), (9, 3), (4, 1), (14, 2), (40, 1)][..]),
        head_dim in select(&[1, 2, 33, 64, 80, 128, 256][..]),
        window in select(&[None, Some(1), Some(16), Some(32), Some(100)][..]),
        softcap in select(&[None, Some(50.0)][..]),
        sinks in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let case = AttentionCase { lens, n_head, n_head_kv, head_dim, window, softcap, sinks };
        check_op(|compile, limit| ops::check_attention(compile, case, seed, limit));
        // With few numbers in all, one outlier is enough to lift the error of `q8_0` above any limit.
        check_attention_in_formats(&KV_FORMATS[..1], case, seed);
    }
}

/// Long contexts are divided among threads: one sequence, and rows of two in one step.
#[test]
fn attention_of_long_contexts_has_the_same_bits_with_any_number_of_threads() {
    let model = golden::tiny("llama-q8_0");
    let (n, n_vocab) = (600, model.config.n_vocab);
    let limits = Limits { max_rows: n, max_outputs: 2, max_seqs: 2, n_ctx: 1024, n_pages: 64 };
    let (prompt, other) = (steps::tokens(n, n_vocab, 1), steps::tokens(290, n_vocab, 2));
    let pages: [Vec<u32>; 2] = [(0..32).collect(), (32..64).collect()];
    for (kernels, kv) in fast_kernels().flat_map(|kernels| KV_FORMATS.map(|(kv, _)| (kernels, kv))) {
        let mut reference: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 3] {
            let options = Options { threads, kernels, kv, ..Options::default() };
            let mut program = cpu::compile(&model.graph, &model, limits, options).expect("the model compiles");
            let mut logits = steps::Sequence::on(pages[0].clone()).append(&mut program, &prompt, n, &[n - 1]);
            steps::Sequence::on(pages[1].clone()).append(&mut program, &other, 290, &[]);
            let rows = [(7, n as u32, 0), (8, 290, 1)].map(|(token, pos, seq)| Row { token, pos, seq });
            let step = Step { rows: &rows, pages: &[&pages[0], &pages[1]], outputs: &[0, 1], want: Want::Logits };
            let Output::Logits(both) = program.run(&step).expect("the step runs") else { panic!("logits were wanted") };
            logits.extend(both.chunks_exact(n_vocab).map(<[f32]>::to_vec));
            let what = format!("{kernels}, {kv}, {threads} threads");
            steps::assert_same(&what, &logits, reference.get_or_insert(logits.clone()), 0.0);
        }
    }
}

/// All numbers of rows that registers and tiles are filled with, rows of weights that fill none, and more weights in a row than are
/// unpacked at a time.
#[test]
fn products_of_any_number_of_rows_are_their_formula() {
    let format = |name| ops::format(name);
    for t in 1..=40 {
        for (name, shape) in [("F32", [17, 33]), ("Q4_0", [1, 32]), ("Q8_0", [15, 96]), ("Q4_K", [33, 256])] {
            check_product(|compile, limit| ops::check_matmul(compile, format(name), t, shape, t as u64, limit));
        }
    }
    for t in [9, 33, 47] {
        for (name, shape) in [("F16", [161, 2_051]), ("Q5_0", [50, 4_128]), ("Q6_K", [31, 4_864])] {
            check_product(|compile, limit| ops::check_matmul(compile, format(name), t, shape, t as u64, limit));
        }
    }
}

/// Several chunks of positions, and windows that begin within one.
#[test]
fn attention_of_long_contexts_is_its_formula() {
    for (window, softcap, sinks) in [(None, None, false), (Some(300), Some(50.0), true), (Some(512), None, false)] {
        let lens = [700, 513];
        let case = AttentionCase { lens, n_head: 9, n_head_kv: 3, head_dim: 64, window, softcap, sinks };
        check_op(|compile, limit| ops::check_attention(compile, case, 1, limit));
        check_attention_in_formats(&KV_FORMATS, case, 2);
    }
}

/// Many rows of one sequence together, with elements that fill registers and tiles, and that do not.
#[test]
fn attention_of_long_prompts_is_its_formula() {
    for (head_dim, window, softcap) in [(64, None, None), (80, Some(300), Some(50.0)), (33, None, None)] {
        let lens = [500, 1];
        let case = AttentionCase { lens, n_head: 6, n_head_kv: 2, head_dim, window, softcap, sinks: true };
        check_attention_in_formats(&KV_FORMATS, case, 3);
    }
}

#[test]
fn rope_is_its_formula() {
    for kind in [RopeKind::Norm, RopeKind::Neox] {
        for (heads, head_dim, n_rot) in [(9, 64, 64), (1, 256, 256), (4, 80, 80), (2, 96, 32), (3, 2, 2)] {
            check_op(|compile, limit| ops::check_rope(compile, kind, heads, head_dim, n_rot, limit));
        }
    }
}

#[test]
fn outputs_are_the_rows_asked_for() {
    for n_vocab in [7, 257, shapes::VOCABULARY] {
        check_op(|compile, _| ops::check_outputs(compile, n_vocab, 1));
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_step_on_any_pages_with_any_number_of_threads() {
    let names = ["llama-q4_0", "llama-q6_k", "gemma3-q8_0"];
    let cases = |name| all_kernels(0.0, FAST_ALONE).map(move |(kernels, alone)| (name, kernels, alone));
    for (name, kernels, alone) in names.into_iter().flat_map(cases) {
        let model = golden::tiny(name);
        let limits = Limits { max_rows: 100, max_outputs: 100, max_seqs: 3, n_ctx: 128, n_pages: 8 };
        let prompt = steps::tokens(100, model.config.n_vocab, 1);
        let all: Vec<usize> = (0..100).collect();
        let mut reference: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 3] {
            let options = Options { threads, keep_tensors: threads == 3, kernels, kv: KvFormat::F32 };
            let mut program = cpu::compile(&model.graph, &model, limits, options).expect("the model compiles");
            let logits = steps::Sequence::new(128).append(&mut program, &prompt, 100, &all);
            steps::assert_same(&format!("{threads} threads"), &logits, reference.get_or_insert(logits.clone()), 0.0);
            steps::check_chunks(&mut program, alone);
            steps::check_sequences(&mut program, alone);
        }
    }
}

/// Products of few rows have kernels of their own: of up to 32 on x86-64, else of up to 8. Attention of more than 32 is by tiles
/// where there are some.
#[test]
fn a_row_has_the_same_bits_in_all_steps_of_a_few_and_in_all_steps_of_many_rows() {
    for name in ["llama-q4_0", "llama-q4_1", "llama-q6_k", "llama-bf16"] {
        let model = golden::tiny(name);
        let limits = Limits { max_rows: 100, max_outputs: 100, max_seqs: 1, n_ctx: 128, n_pages: 4 };
        let prompt = steps::tokens(100, model.config.n_vocab, 2);
        let all: Vec<usize> = (0..100).collect();
        for kernels in fast_kernels() {
            let mut program = compile(&model, limits, kernels);
            let mut logits = |chunk| steps::Sequence::new(128).append(&mut program, &prompt, chunk, &all);
            let mut same = |chunks: &[usize]| {
                let first = logits(chunks[0]);
                for &chunk in &chunks[1..] {
                    let what = format!("{name}, {kernels}: steps of {chunk} and {}", chunks[0]);
                    steps::assert_same(&what, &logits(chunk), &first, 0.0);
                }
            };
            same(&[2, 4, 5]);
            match kernels {
                Kernels::Only(Isa::Avx2 | Isa::Avx512 | Isa::Amx) if name != "llama-bf16" => {
                    same(&[2, 10, 20, 25]);
                    same(&[100, 50]);
                }
                Kernels::Only(Isa::Amx) => {
                    same(&[10, 20, 25]);
                    same(&[100, 50]);
                }
                _ => same(&[100, 10, 20, 25, 50]),
            }
        }
    }
}

#[test]
fn a_step_can_be_given_up_between_any_two_ops() {
    let model = golden::load(&common::golden("tiny/llama-f32.gguf"));
    for (kernels, _) in all_kernels(0.0, 0.0) {
        let rows: Vec<Row> = (0..8).map(|i| Row { token: 20 + i, pos: i, seq: 0 }).collect();
        let step = Step { rows: &rows, pages: &[&[0]], outputs: &[7], want: Want::Logits };
        let mut program = compile(&model, golden::limits(32, 8), kernels);
        let expected = program.run(&step).expect("it runs");
        let n_asked = std::cell::Cell::new(0);
        let count = || n_asked.replace(n_asked.get() + 1) < usize::MAX;
        let whole = program.submit_while(&step, &count).expect("it runs");
        assert_eq!(whole, Some(Ticket::Done(expected.clone())));
        for n in 0..n_asked.get() {
            let left = std::cell::Cell::new(n);
            let is_wanted = || left.replace(left.get().saturating_sub(1)) > 0;
            assert_eq!(program.submit_while(&step, &is_wanted).expect("it is given up"), None);
        }
        assert_eq!(program.run(&step).expect("it runs"), expected, "{kernels}");
    }
}

#[test]
fn the_first_tensor_that_differs_is_named() {
    let model = golden::tiny("llama-f32");
    let limits = golden::limits(32, 4);
    let options = Options { threads: 1, keep_tensors: true, kernels: Kernels::Reference, ..Options::default() };
    // The same model, but for one norm of its second layer.
    let mut graph = model.graph.clone();
    let changed = graph.find("blk.1.ffn_norm.out").expect("a llama has it");
    let Op::RmsNorm { eps, .. } = &mut graph.ops[changed.index()] else { panic!("a norm is a norm") };
    *eps = 0.5;
    let mut a = cpu::compile(&graph, &model, limits, options).expect("the model compiles");
    let mut b = cpu::compile(&model.graph, &model, limits, options).expect("the model compiles");

    let rows = [(5, 0), (6, 1), (7, 2)].map(|(token, pos)| Row { token, pos, seq: 0 });
    let step = Step { rows: &rows, pages: &[&[0]], outputs: &[2], want: Want::Logits };
    let difference = first_difference(&mut a, &mut b, &step, 1e-9).expect("both run").expect("they differ");
    assert_eq!(difference.tensor, "blk.1.ffn_norm.out");
    let text = difference.to_string();
    assert!(text.starts_with("blk.1.ffn_norm.out: nmse ") && text.contains(" (limit 1e-9) at ["), "{text}");
    assert_eq!(first_difference(&mut b, &mut a, &step, f64::INFINITY).expect("both run"), None);
    let mut same = cpu::compile(&model.graph, &model, limits, options).expect("the model compiles");
    assert_eq!(first_difference(&mut same, &mut b, &step, 0.0).expect("both run"), None);
}

#[test]
fn memory_is_said_as_it_is_held() {
    let model = golden::load(&common::real_model(SMOLLM2));
    let mut program = compile(&model, golden::limits(2_048, 1), Kernels::Reference);
    let before = program.info().memory;
    // The file is 98.4 MB, nearly all of it weights, and ties the embedding table.
    assert!((90_000_000..98_400_000).contains(&before.weights_bytes), "{before:?}");
    assert_eq!(before.kv_bytes, 0, "pages are allocated when they are written");
    steps::Sequence::new(2_048).append(&mut program, &[1, 2, 3], 1, &[]);
    // 30 layers, keys and values, 3 heads of 64, 32 positions.
    assert_eq!(program.info().memory.kv_bytes, 30 * 2 * 3 * 64 * 32 * 4);
}
