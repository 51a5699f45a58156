//! Perplexity and KL divergence: against the numbers and the files of llama-perplexity, whatever steps windows are cut into.

use std::path::Path;

use halfbyte::backend::cpu::Kernels;
use halfbyte::engine::{Device, EngineOptions, KvFormat, Loaded};
use halfbyte::eval::{self, Base, Divergence, LogitsFile, LogitsWriter, Perplexity, Summary, Windows};
use halfbyte::{Error, Result};
use serde::Deserialize;

use crate::common::{golden, real_model};
use crate::golden::{self, GEMMA3, SMOLLM2};

/// What llama-perplexity prints.
#[derive(Deserialize)]
struct Printed {
    model: String,
    n_ctx: usize,
    running: Vec<f64>,
    value: f64,
    error: f64,
}

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE");
    std::fs::read_to_string(path).expect("the license is there").trim_end_matches('\n').into()
}

fn open(path: &Path, options: EngineOptions) -> Loaded {
    Loaded::open(path, &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tiny_path(name: &str) -> std::path::PathBuf {
    golden(&format!("tiny/{name}.gguf"))
}

/// A model ready for windows of `n_ctx`.
fn open_for(path: &Path, n_ctx: usize, options: EngineOptions) -> Loaded {
    open(path, eval::engine_options(n_ctx, options).expect("windows that make sense"))
}

/// A tiny model on exact kernels, ready for windows of `n_ctx`.
fn tiny(name: &str, n_ctx: usize) -> Loaded {
    let exact = EngineOptions { device: Device::Cpu, kernels: Some(Kernels::Reference), ..EngineOptions::default() };
    open_for(&tiny_path(name), n_ctx, exact)
}

fn windows(model: &Loaded, n_ctx: usize, most: usize) -> Windows {
    Windows::of_text(&*model.tokenizer, &text(), n_ctx, Some(most)).expect("the text is long enough")
}

fn perplexity(model: &mut Loaded, windows: &Windows) -> Vec<f64> {
    eval::perplexity(&mut *model.program, windows, 2, None, &mut |_| ()).expect("it runs")
}

fn divergence(model: &mut Loaded, windows: &Windows, base: &mut Base<'_>) -> Vec<Divergence> {
    eval::divergence(&mut *model.program, windows, 2, base, &mut |_| ()).expect("both run")
}

fn assert_near(what: &str, found: f64, expected: f64, limit: f64) {
    let off = (found / expected - 1.0).abs();
    assert!(off <= limit, "{what} is {found}, off by {off:.1e} (limit {limit:.0e}) from {expected}");
}

/// A model's running values and final one against those of llama.cpp, which may be off by `limit`.
fn check_printed(model: &mut Loaded, name: &str, limit: f64) {
    let all: Vec<Printed> = golden::read("eval/perplexity.json");
    let n_ctx = model.facts.n_ctx;
    let mut n_checked = 0;
    for printed in all.iter().filter(|printed| printed.model == name && printed.n_ctx == n_ctx) {
        let windows = windows(model, printed.n_ctx, printed.running.len());
        let scores = perplexity(model, &windows);
        for (i, &expected) in printed.running.iter().enumerate() {
            let found = Perplexity::of(&scores[..(i + 1) * windows.n_scored()]);
            // Fewer tokens even out less of what llama.cpp rounds.
            assert_near(&format!("{name}: [{}]", i + 1), found.value, expected, 2.0 * limit);
        }
        let Perplexity { value, error } = Perplexity::of(&scores);
        assert_near(name, value, printed.value, limit);
        assert_near(&format!("{name}: the error"), error, printed.error, 2.0 * limit);
        n_checked += 1;
    }
    assert_eq!(n_checked, 1, "{name}: there are data");
}

#[test]
fn perplexity_is_what_llama_cpp_says() {
    // llama.cpp computes these in f32, as we do.
    check_printed(&mut tiny("llama-f32", 64), "tiny/llama-f32", 1e-5);
    check_printed(&mut tiny("llama-f32", 32), "tiny/llama-f32", 1e-5);
    // Here it rounds activations to 8 bits; the logits of these models are large.
    check_printed(&mut tiny("llama-q4_0", 64), "tiny/llama-q4_0", 0.035);
    // Windows of an odd length.
    check_printed(&mut tiny("gemma3-q8_0", 65), "tiny/gemma3-q8_0", 2e-3);
}

fn check_real(file: &str) {
    let options = EngineOptions { device: Device::Cpu, threads: Some(2), ..EngineOptions::default() };
    let mut model = open_for(&real_model(file), 512, options);
    let name = model.facts.model.clone();
    check_printed(&mut model, &name, 0.005);
}

#[test]
fn perplexity_of_smollm2_is_what_llama_cpp_says() {
    check_real(SMOLLM2);
}

#[test]
fn perplexity_of_gemma3_is_what_llama_cpp_says() {
    check_real(GEMMA3);
}

#[test]
fn perplexity_on_a_gpu_is_that_on_the_cpu() {
    let mut cpu = tiny("llama-q4_k_s", 48);
    let options = EngineOptions { device: Device::Gpu, pipeline_cache: None, ..EngineOptions::default() };
    let mut gpu = open_for(&tiny_path("llama-q4_k_s"), 48, options);
    let windows = windows(&cpu, 48, 5);
    let [found, expected] = [&mut gpu, &mut cpu].map(|model| Perplexity::of(&perplexity(model, &windows)).value);
    assert_near("perplexity", found, expected, 1e-2);
}

#[test]
fn steps_of_any_size_give_the_same_scores() {
    let mut model = tiny("llama-f32", 33);
    let windows = windows(&model, 33, 7);
    let expected = perplexity(&mut model, &windows);
    assert_eq!(expected.len(), 7 * windows.n_scored());
    for (max_rows, max_outputs, max_sessions) in [(1, 1, 1), (7, 3, 1), (32, 100, 2), (40, 5, 3), (100, 100, 4)] {
        let options = EngineOptions {
            device: Device::Cpu,
            kernels: Some(Kernels::Reference),
            n_ctx: Some(33),
            max_rows,
            max_outputs,
            max_sessions,
            ..EngineOptions::default()
        };
        let mut model = open(&tiny_path("llama-f32"), options);
        let found = perplexity(&mut model, &windows);
        // A row's bits do not depend on the step it is in, on these kernels.
        assert!(found == expected, "{max_rows} rows, {max_outputs} outputs, {max_sessions} sequences");
    }
}

#[test]
fn windows_are_those_of_llama_cpp() {
    let model = tiny("llama-f32", 32);
    let windows = windows(&model, 32, 2);
    let file = LogitsFile::open(&golden("eval/llama-f32.kld")).expect("llama.cpp's file");
    assert_eq!((file.n_ctx(), windows.len(), windows.n_scored()), (32, 2, 15));
    let of_file = file.windows(&*model.tokenizer, 288, None).expect("the same vocabulary");
    assert_eq!(of_file, windows);
    file.check_text(&windows).expect("the same text");
    assert_eq!(windows.scored_token(0), windows.tokens()[17]);
    assert_eq!(windows.scored_token(15), windows.tokens()[32 + 17]);
    assert_eq!(windows.scored_token(29), windows.tokens()[63]);
}

#[test]
fn names_of_control_tokens_in_a_text_are_text() {
    let model = tiny("llama-f32", 32);
    let windows = Windows::of_text(&*model.tokenizer, &"</s>".repeat(16), 32, None).expect("64 characters");
    assert!(!windows.tokens().contains(&2), "{:?}", windows.tokens());
}

/// Saves what a tiny model says about windows of 32.
fn save(name: &str, path: &Path) -> Windows {
    let mut model = tiny(name, 32);
    let windows = windows(&model, 32, 2);
    let mut writer = LogitsWriter::create(path, [], &windows, 288).expect("a file");
    eval::perplexity(&mut *model.program, &windows, 2, Some(&mut writer), &mut |_| ()).expect("it runs");
    writer.finish().expect("it is written");
    windows
}

#[test]
fn saved_logits_are_the_bytes_that_llama_cpp_saves() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    save("llama-f32", file.path());
    let found = std::fs::read(file.path()).expect("it is there");
    let expected = std::fs::read(golden("eval/llama-f32.kld")).expect("it is there");
    assert_eq!(found.len(), expected.len());
    let (header_len, row_len) = (20 + 4 * 64, 8 + 2 * 288);
    assert_eq!(found[..header_len], expected[..header_len]);
    for (found, expected) in found[header_len..].chunks(row_len).zip(expected[header_len..].chunks(row_len)) {
        let float = |row: &[u8], at| f32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
        for at in [0, 4] {
            assert_near("scale or min", float(found, at).into(), float(expected, at).into(), 1e-5);
        }
        let levels = |row: &[u8]| row[8..].chunks(2).map(|q| u16::from_le_bytes([q[0], q[1]])).collect::<Vec<_>>();
        // Logits up to some 30 are computed in f32 by both; a level is 2e-4.
        let worst = levels(found).into_iter().zip(levels(expected)).map(|(a, b)| a.abs_diff(b)).max();
        assert!(worst <= Some(1), "{worst:?} levels apart");
    }
}

#[test]
fn divergence_from_a_file_of_llama_cpp_is_what_llama_cpp_says() {
    #[derive(Deserialize)]
    struct Expected {
        value: f64,
        error: f64,
        base_value: f64,
        base_error: f64,
        ratio: f64,
        ratio_error: f64,
        kld: f64,
        kld_error: f64,
        median_kld: f64,
        p99_kld: f64,
        max_kld: f64,
        rms_dp: f64,
        rms_dp_error: f64,
        same_top: f64,
        same_top_error: f64,
    }
    let expected: Expected = golden::read("eval/divergence.json");
    let mut model = tiny("llama-f32", 64);
    let mut file = LogitsFile::open(&golden("eval/llama-q4_0.kld")).expect("llama.cpp's file");
    let windows = file.windows(&*model.tokenizer, 288, None).expect("the same vocabulary");
    let found = Summary::of(&divergence(&mut model, &windows, &mut Base::File(&mut file)));
    for (what, found, expected) in [
        ("perplexity", found.perplexity.value, expected.value),
        ("its error", found.perplexity.error, expected.error),
        ("the base's", found.base_perplexity.value, expected.base_value),
        ("its error", found.base_perplexity.error, expected.base_error),
        ("ratio", found.ratio.mean, expected.ratio),
        ("its error", found.ratio.error, expected.ratio_error),
        ("divergence", found.kld.mean, expected.kld),
        ("its error", found.kld.error, expected.kld_error),
        ("median", found.median_kld, expected.median_kld),
        ("99 %", found.p99_kld, expected.p99_kld),
        ("largest", found.max_kld, expected.max_kld),
        ("RMS Δp", found.rms_dp.mean, expected.rms_dp),
        ("its error", found.rms_dp.error, expected.rms_dp_error),
        ("same top", found.same_top.mean, expected.same_top),
        ("its error", found.same_top.error, expected.same_top_error),
    ] {
        assert_near(what, found, expected, 5e-4);
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let windows = save("llama-q8_0", file.path());
    let mut saved = LogitsFile::open(file.path()).expect("our file");
    let (mut model, mut same) = (tiny("llama-q8_0", 32), tiny("llama-q8_0", 32));
    let of_file = divergence(&mut model, &windows, &mut Base::File(&mut saved));
    let of_program = divergence(&mut model, &windows, &mut Base::Program(&mut *same.program));
    for (what, tokens, limit) in [("file", of_file, 1e-8), ("program", of_program, 1e-12)] {
        let summary = Summary::of(&tokens);
        assert!(summary.max_kld <= limit, "{what}: {:e}", summary.max_kld);
        assert_eq!((summary.same_top.mean, summary.same_top.error), (1.0, 0.0), "{what}");
        assert!((summary.ratio.mean - 1.0).abs() <= 1e-4, "{what}: {}", summary.ratio.mean);
    }
}

#[test]
fn divergence_from_a_file_is_that_from_the_program_that_wrote_it() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let windows = save("llama-q4_0", file.path());
    let mut saved = LogitsFile::open(file.path()).expect("our file");
    let (mut model, mut base) = (tiny("llama-f16", 32), tiny("llama-q4_0", 32));
    let of_file = Summary::of(&divergence(&mut model, &windows, &mut Base::File(&mut saved)));
    let of_program = Summary::of(&divergence(&mut model, &windows, &mut Base::Program(&mut *base.program)));
    assert_near("divergence", of_file.kld.mean, of_program.kld.mean, 1e-3);
    assert_near("ratio", of_file.ratio.mean, of_program.ratio.mean, 1e-3);
    assert_eq!(of_file.same_top, of_program.same_top);
}

/// The file of llama.cpp after `change`.
fn changed(change: impl Fn(&mut Vec<u8>)) -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(golden("eval/llama-f32.kld")).expect("it is there");
    change(&mut bytes);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("written");
    file
}

fn write_u32(bytes: &mut [u8], at: usize, n: u32) {
    bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
}

#[test]
fn files_that_are_not_what_they_say_are_errors() {
    let what = |change: &dyn Fn(&mut Vec<u8>)| match LogitsFile::open(changed(change).path()) {
        Err(error @ Error::LogitsFile { .. }) => {
            assert!(error.hint().is_some());
            error.to_string().split_once("log-probabilities: ").map(|(_, what)| what.to_owned())
        }
        other => panic!("{other:?}"),
    };
    let what = |change: &dyn Fn(&mut Vec<u8>)| what(change).expect("the form of the message");
    assert_eq!(what(&|bytes| bytes.truncate(19)), "it has 19 bytes, which are no header");
    assert_eq!(what(&|bytes| bytes[0] = b'x'), "it does not begin with `_logits_`");
    assert_eq!(what(&|bytes| bytes.truncate(17_000)), "17000 bytes in place of the 17796 of 2 windows");
    assert_eq!(what(&|bytes| bytes.push(0)), "17797 bytes in place of the 17796 of 2 windows");
    assert_eq!(what(&|bytes| write_u32(bytes, 20, 288)), "token 288 in a vocabulary of 288");
    assert_eq!(what(&|bytes| write_u32(bytes, 8, 2)), "2 windows of 2 tokens, 288 in the vocabulary");
    assert_eq!(what(&|bytes| write_u32(bytes, 12, 0)), "2 windows of 32 tokens, 0 in the vocabulary");
    // Promises of any size are compared with the file before anything is allocated.
    let enormous = |bytes: &mut Vec<u8>| [8, 12, 16].into_iter().for_each(|at| write_u32(bytes, at, i32::MAX as u32));
    assert!(what(&enormous).starts_with("17796 bytes in place of the "), "{}", what(&enormous));
    let absurd = |bytes: &mut Vec<u8>| [8, 12, 16].into_iter().for_each(|at| write_u32(bytes, at, u32::MAX));
    assert!(what(&absurd).contains("4294967295"), "{}", what(&absurd));
    let missing = LogitsFile::open(Path::new("no/such/file"));
    assert!(matches!(missing, Err(Error::Io { action: "open", .. })), "{missing:?}");
}

#[test]
fn rows_that_are_no_probabilities_are_errors() {
    let first_row = 20 + 4 * 64;
    for (scale, min) in [(f32::NAN, -1.0), (-1.0, 0.0), (1.0, 0.0), (0.0, f32::INFINITY), (1e38, -1.0)] {
        let file = changed(|bytes| {
            write_u32(bytes, first_row, scale.to_bits());
            write_u32(bytes, first_row + 4, min.to_bits());
        });
        let mut file = LogitsFile::open(file.path()).expect("rows are read later");
        let mut model = tiny("llama-f32", 32);
        let windows = file.windows(&*model.tokenizer, 288, Some(1)).expect("the same vocabulary");
        let result = eval::divergence(&mut *model.program, &windows, 2, &mut Base::File(&mut file), &mut |_| ());
        assert!(matches!(result, Err(Error::LogitsFile { .. })), "{scale} {min}: {result:?}");
    }
}

/// What is wrong, and what to do about it.
fn usage<T: std::fmt::Debug>(result: Result<T>) -> (String, Option<String>) {
    let error = result.expect_err("it makes no sense");
    assert!(matches!(error, Error::Usage { .. }), "{error}");
    (error.to_string(), error.hint())
}

#[test]
fn windows_that_make_no_sense_are_errors() {
    let model = tiny("llama-f32", 32);
    let of_text = |text: &str, n_ctx, most| Windows::of_text(&*model.tokenizer, text, n_ctx, most);
    let (what, hint) = usage(of_text("Too short.", 32, None));
    assert_eq!(what, "the text has 12 tokens, and a window takes 32");
    assert_eq!(hint.as_deref(), Some("use a longer text, or a smaller window (`-c`)"));
    assert_eq!(usage(of_text("Too short.", 7, None)).0, "windows of 7 tokens");
    assert_eq!(usage(eval::engine_options(0, EngineOptions::default())).0, "windows of 0 tokens");
    assert_eq!(usage(of_text("Long enough, but not wanted", 8, Some(0))).0, "no window of the text is wanted");
    assert_eq!(of_text("Just enough", 8, None).expect("eight tokens").len(), 1);
}

#[test]
fn files_about_something_else_are_errors() {
    let model = tiny("llama-f32", 32);
    let path = golden("eval/llama-f32.kld");
    let file = LogitsFile::open(&path).expect("llama.cpp's file");
    let (what, hint) = usage(file.windows(&*model.tokenizer, 289, None));
    assert_eq!(what, format!("{}: a vocabulary of 288, the model's has 289", path.display()));
    assert!(hint.is_some());
    let other = Windows::of_text(&*model.tokenizer, &text().replace("Apache", "Apaches"), 32, Some(2)).expect("long");
    let (what, hint) = usage(file.check_text(&other));
    assert!(what.contains("made from other tokens than the text has, from token "), "{what}");
    assert!(hint.is_some());
    let longer = Windows::of_text(&*model.tokenizer, &text(), 32, Some(3)).expect("long");
    let (what, _) = usage(file.check_text(&longer));
    assert!(what.ends_with("from token 64 on"), "{what}");
    let shorter = Windows::of_text(&*model.tokenizer, &text(), 32, Some(1)).expect("long");
    file.check_text(&shorter).expect("a part of it");
}

#[test]
fn keys_in_half_precision_change_little() {
    let options = |kv| EngineOptions { device: Device::Cpu, kv: Some(kv), ..EngineOptions::default() };
    let value = |kv| {
        let mut model = open_for(&tiny_path("llama-f32"), 64, options(kv));
        let windows = windows(&model, 64, 4);
        Perplexity::of(&perplexity(&mut model, &windows)).value
    };
    let (half, whole) = (value(KvFormat::F16), value(KvFormat::F32));
    assert_ne!(half, whole);
    assert_near("perplexity with keys in f16", half, whole, 1e-3);
}
