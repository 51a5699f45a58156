//! The GPU's time: steps cut into submissions of bounded length, profiles, and pipelines that are kept on disk.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use halfbyte::backend::{Output, PhaseProfile, Program, Row, Step, Want, Weights, gpu};
use halfbyte::graph::Op;
use halfbyte::model::Model;

use crate::common;
use crate::golden::{self, SMOLLM2};
use crate::steps::{Sequence, assert_same};

fn compile(model: &Model, options: &gpu::Options) -> gpu::GpuProgram {
    gpu::compile(&model.graph, model, golden::limits(128, 128), options, &mut |_, _| ())
        .expect("a Vulkan adapter; ./scripts/test installs one")
}

fn submits(program: &dyn Program) -> u64 {
    program.info().counters.iter().find(|(name, _)| *name == "submits").expect("a counter").1
}

/// Whatever is cut, results are the same bits: submissions of one call each, and prompts of 32 rows and a rest.
#[test]
fn a_step_in_many_submissions_is_the_same_step() {
    for name in ["llama-q4_0", "gemma3-q8_0", "qwen3moe-q8_0"] {
        let model = golden::tiny(name);
        let n_layers = model.graph.kv.len() as u64;
        let tokens: Vec<u32> = (0..101).map(|i| 260 + i % 28).collect();
        let run = |submission_budget: Duration| {
            let options = gpu::Options { submission_budget: Some(submission_budget), ..Default::default() };
            let mut program = compile(&model, &options);
            let mut sequence = Sequence::new(128);
            let prompt = sequence.append(&mut program, &tokens, usize::MAX, &[100]);
            let of_prompt = submits(&program);
            let token = sequence.append(&mut program, &[270], 1, &[0]);
            ([prompt, token].concat(), of_prompt, submits(&program))
        };
        let (whole, of_prompt, of_token) = run(Duration::from_secs(1000));
        assert_eq!((of_prompt, of_token), (1, 1), "{name}");
        let (cut, of_prompt, of_token) = run(Duration::from_nanos(1));
        // Four matmuls and attention in each of three pieces of the prompt, at least.
        assert!(of_prompt > 3 * 5 * n_layers && of_token > 5 * n_layers, "{name}: {of_prompt}, {of_token} submissions");
        assert_same(name, &cut, &whole, 0.0);
    }
}

/// An output row among the first rows of a long step: rows are not cut then, submissions are.
#[test]
fn rows_with_outputs_stay_together() {
    let model = golden::tiny("llama-q4_0");
    let run = |submission_budget: Duration| {
        let options = gpu::Options { submission_budget: Some(submission_budget), ..Default::default() };
        let mut program = compile(&model, &options);
        Sequence::new(128).append(&mut program, &[265; 70], usize::MAX, &[3, 69])
    };
    assert_same("two outputs", &run(Duration::from_nanos(1)), &run(Duration::from_secs(1000)), 0.0);
}

/// Profile of `n` decode steps behind a prompt of eight tokens.
fn decode_profile(model: &Model, n: usize) -> (f64, PhaseProfile) {
    let options = gpu::Options { profile: true, ..Default::default() };
    let mut program = compile(model, &options);
    let mut sequence = Sequence::new(64);
    sequence.append(&mut program, &[260; 8], usize::MAX, &[]);
    for _ in 0..n {
        let rows = [Row { token: 261, pos: sequence.len as u32, seq: 0 }];
        let step = Step { rows: &rows, pages: &[&sequence.pages], outputs: &[0], want: Want::Argmax };
        assert!(matches!(program.run(&step).expect("the step runs"), Output::Tokens(_)));
        sequence.len += 1;
    }
    let profile = program.profile().expect("it was asked for");
    let names: Vec<_> = profile.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["prompt", "decode"]);
    assert!(program.profile().expect("it was asked for").phases.is_empty(), "steps are counted once");
    (profile.read_bandwidth, profile.phases.into_iter().next_back().expect("decode"))
}

/// Bytes of all weights that a token needs, each once, and of keys and values of one position, in f16. Of a table that is only
/// looked up, a row is needed, which is next to nothing; of experts those that are used.
fn needed_bytes(model: &Model) -> (u64, u64) {
    let used = model.graph.ops.iter().filter(|op| !matches!(op, Op::Embed { .. }));
    let weights = used.flat_map(|op| {
        let (part, of) = match op {
            Op::ExpertMatMul { n_used, n_expert, .. } => (*n_used as u64, *n_expert as u64),
            _ => (1, 1),
        };
        op.weights().into_iter().map(move |weight| (weight.name.as_str(), part, of))
    });
    let bytes = |name: &str| model.weight(name).expect("the model has its weights").bytes.len() as u64;
    let by_name: HashMap<&str, u64> = weights.map(|(name, part, of)| (name, bytes(name) * part / of)).collect();
    let kv = model.graph.kv.iter().map(|shape| 4 * (shape.n_head_kv * shape.head_dim) as u64);
    (by_name.values().sum(), kv.sum())
}

/// Each weight is read once a token, and each key and value in use.
#[test]
fn a_token_reads_what_it_has_to_and_little_more() {
    let smollm2 = golden::load(&common::real_model(SMOLLM2));
    let tiny = ["llama-q4_0", "llama-q4_k_s", "gemma3-q8_0", "mixtral-q8_0"].map(|name| (name, golden::tiny(name)));
    for (name, model) in tiny.iter().map(|(name, model)| (*name, model)).chain([("smollm2", &smollm2)]) {
        let (read_bandwidth, decode) = decode_profile(model, 1);
        assert!(read_bandwidth > 1e8, "{name}: {read_bandwidth} bytes a second");
        let (weights, kv) = needed_bytes(model);
        let sum = |of: fn(&halfbyte::backend::KernelProfile) -> u64| decode.kernels.iter().map(of).sum::<u64>() as f64;
        let needed = (weights + 9 * kv) as f64;
        let read = sum(|kernel| kernel.weight_bytes + kernel.kv_bytes) / needed;
        assert!((0.99..=1.05).contains(&read), "{name}: {read:.3} of what is needed");
        // What steps hand on from call to call is small beside the weights where there are any to speak of.
        let all = sum(halfbyte::backend::KernelProfile::bytes) / needed;
        assert!(all <= if name == "smollm2" { 1.05 } else { 1.5 }, "{name}: {all:.3} with intermediate results");
    }
}

#[test]
fn a_profile_accounts_for_the_time() {
    let model = golden::load(&common::real_model(SMOLLM2));
    let (_, decode) = decode_profile(&model, 3);
    assert_eq!((decode.steps, decode.rows), (3, 3));
    let inside: Duration = decode.kernels.iter().map(|kernel| kernel.time).sum();
    assert!(inside > Duration::ZERO && inside < decode.elapsed, "{inside:?} of {:?}", decode.elapsed);
    assert_eq!(decode.outside(), decode.elapsed - inside);
    let calls: u64 = decode.kernels.iter().map(|kernel| kernel.calls).sum();
    assert!(calls.is_multiple_of(3) && calls / 3 > 5 * model.graph.kv.len() as u64, "{calls} calls");
    assert!(decode.kernels.is_sorted_by(|a, b| a.time >= b.time), "the longest first");
}

/// Bytes of the only file in a folder.
fn only_file(folder: &Path) -> (std::path::PathBuf, u64) {
    let entries: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    (entries[0].path(), entries[0].metadata().expect("a file").len())
}

/// Compiled pipelines are written when the program ends; a file that is damaged, or can't be written, changes nothing.
#[test]
fn compiled_pipelines_are_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("a").join("pipelines");
    let model = golden::tiny("llama-q4_0");
    let run = |folder: &Path| {
        let options = gpu::Options { pipeline_cache: Some(folder.into()), ..Default::default() };
        Sequence::new(64).append(&mut compile(&model, &options), &[260; 20], usize::MAX, &[19])
    };
    let first = run(&folder);
    let (path, len) = only_file(&folder);
    assert!(len > 0, "a header at least: some drivers compile later, and keep that themselves");
    assert_same("from the file", &run(&folder), &first, 0.0);
    for damaged in [&b"not what it was"[..], &std::fs::read(&path).expect("a file")[..len as usize / 2], &[]] {
        std::fs::write(&path, damaged).expect("the file can be written");
        assert_same("from a damaged file", &run(&folder), &first, 0.0);
        assert_eq!(only_file(&folder).1, len, "written again");
    }
    assert_same("where no folder can be", &run(&path.join("below a file")), &first, 0.0);
}

/// Standard output, standard error and exit code of the program.
fn halfbyte(args: &[&str]) -> (String, String, Option<i32>) {
    let model = common::golden("tiny/llama-q4_0.gguf").display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_halfbyte"))
        .args(args)
        .args(["-m", &model])
        .env_remove("HALFBYTE_DEVICE")
        .env("HALFBYTE_PIPELINE_CACHE", "off")
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn profile_is_an_option_of_the_commands_that_run_a_model() {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("one JSON object");
    let (stdout, ..) = halfbyte(&["generate", "--device", "gpu", "--profile", "--json", "-n", "3", "abc"]);
    let profile = &json(&stdout)["profile"];
    assert!(profile["read_bytes_per_second"].as_f64() > Some(0.0), "{profile}");
    let kernels = profile["phases"][1]["kernels"].as_array().expect("kernels of decode");
    assert!(kernels.len() > 4 && kernels.iter().all(|kernel| kernel["calls"].as_u64() > Some(0)), "{profile}");

    let (stdout, ..) = halfbyte(&["bench", "--device", "gpu", "--profile", "-p", "0", "-n", "2", "-r", "1"]);
    assert!(stdout.contains("decode: 2 steps, 2 tokens,") && stdout.contains("| outside kernels"), "{stdout}");
    assert!(stdout.contains("| host ms a step |"), "{stdout}");

    let (stdout, stderr, code) = halfbyte(&["generate", "--device", "cpu", "--profile", "abc"]);
    assert_eq!((stdout.as_str(), code), ("", Some(2)));
    assert!(stderr.contains("there is no profile of the CPU"), "{stderr}");
}
