//! `perplexity` and `compare` as a user meets them.

use std::path::Path;

use serde_json::Value;

use super::{failure, golden, golden_json, halfbyte, json, run, stdout, tiny};
use crate::common::real_model;

/// A text that comes with the sources.
fn text() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE").display().to_string()
}

fn tiny_named(name: &str) -> String {
    golden(&format!("tiny/{name}.gguf")).display().to_string()
}

fn logits_file(name: &str) -> String {
    golden(&format!("eval/{name}.kld")).display().to_string()
}

/// Arguments behind `halfbyte perplexity`, on the CPU.
fn perplexity(args: &[&str]) -> std::process::Output {
    run(halfbyte().args(["perplexity", "--device", "cpu"]).args(args))
}

fn compare(args: &[&str]) -> std::process::Output {
    run(halfbyte().arg("compare").args(args))
}

fn number(json: &Value) -> f64 {
    json.as_f64().unwrap_or_else(|| panic!("{json} is no number"))
}

#[test]
fn perplexity_shows_the_running_value_and_the_final_one() {
    let out =
        stdout(perplexity(&[&tiny_named("llama-f32"), &text(), "-c", "64", "--chunks", "2", "--cache-type", "f32"]));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[0].starts_with("[1]339") && lines[0].contains(",[2]1174"), "{out}");
    assert!(lines[1].starts_with("PPL = 1174") && lines[1].contains(" ± "), "{out}");
    assert!(
        lines[3].starts_with("llama-f32 on CPU (") && lines[3].contains("2 windows of 64 tokens, 62 scored"),
        "{out}"
    );
    assert!(lines[3].ends_with(" t/s"), "{out}");
}

#[test]
fn perplexity_in_json_has_what_llama_cpp_says() {
    let out = json(perplexity(&["-m", &tiny_named("llama-f32"), "-f", &text(), "-c", "64", "--chunks", "4", "--json"]));
    let expected = &golden_json("eval/perplexity.json")[0];
    assert!((number(&out["perplexity"]["value"]) / number(&expected["value"]) - 1.0).abs() < 1e-3, "{out}");
    assert!((number(&out["perplexity"]["error"]) / number(&expected["error"]) - 1.0).abs() < 1e-3, "{out}");
    assert_eq!((&out["n_windows"], &out["n_scored"], &out["n_ctx"]), (&4.into(), &124.into(), &64.into()));
    assert_eq!((&out["model"], &out["architecture"]), (&"llama-f32".into(), &"llama".into()));
    for key in ["seconds", "load_seconds", "tokens_per_second"] {
        assert!(number(&out[key]) > 0.0, "{key}");
    }
    // Without a bound all windows of the text are read, and they are of 512 tokens without `-c`.
    let out = json(perplexity(&[&tiny(), &text(), "--json"]));
    assert_eq!(out["n_ctx"], 512);
    assert!(number(&out["n_windows"]) > 10.0, "{out}");
}

#[test]
fn divergence_is_shown_of_a_file_and_of_a_model() {
    let model = tiny_named("llama-f32");
    let of_file = json(perplexity(&[&model, "--kld", &logits_file("llama-q4_0"), "--json"]));
    let of_model = json(perplexity(&[&model, &text(), "--base", &tiny(), "-c", "64", "--chunks", "4", "--json"]));
    let expected = golden_json("eval/divergence.json");
    // The file was made with 8-bit activations, the model computes with 16 bits: q4_0 is not quite the same model.
    for (what, out, limit) in [("file", &of_file, 2e-3), ("model", &of_model, 0.05)] {
        let off = number(&out["kld"]["value"]) / number(&expected["kld"]) - 1.0;
        assert!(off.abs() < limit, "{what}: off by {off}");
        assert!(number(&out["base_perplexity"]["value"]) > 2000.0, "{what}");
        assert!((0.3..0.4).contains(&number(&out["same_top"]["value"])), "{what}");
        assert!(number(&out["median_kld"]) < number(&out["p99_kld"]), "{what}");
        assert!(number(&out["p99_kld"]) < number(&out["max_kld"]), "{what}");
    }
    let out = stdout(perplexity(&[&model, &text(), "--kld", &logits_file("llama-q4_0"), "--chunks", "1"]));
    let keys: Vec<&str> = out.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.trim()).collect();
    assert_eq!(keys, ["PPL", "PPL of the base", "ratio", "KL divergence", "same top token", "RMS Δp"]);
}

#[test]
fn what_is_saved_can_be_compared_with() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display().to_string();
    let model = tiny();
    stdout(perplexity(&[&model, &text(), "-c", "32", "--chunks", "3", "--save-logits", &path]));
    let out = json(perplexity(&[&model, "--kld", &path, "--json"]));
    assert_eq!((&out["n_ctx"], &out["n_windows"]), (&32.into(), &3.into()));
    assert!(number(&out["kld"]["value"]) < 1e-8, "{out}");
    assert_eq!(out["same_top"]["value"], 1.0);
}

#[test]
fn what_cannot_be_judged_is_an_error_with_a_hint() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "Too short.").expect("written");
    let (short, model, other) = (file.path().display().to_string(), tiny(), tiny_named("gemma3-q8_0"));
    let saved = logits_file("llama-f32");
    let cases: &[(&[&str], i32, &str, &str)] = &[
        (&[&model, &short], 2, "the text has 12 tokens, and a window takes 512", "use a longer text"),
        (&[&model, "no/such/text"], 1, "cannot read no/such/text", "check the path"),
        (&[&model, "--kld", "no/such/file"], 1, "cannot open no/such/file", "check the path"),
        (&[&model, "--kld", &model], 1, "not a usable file of log-probabilities", "--save-logits"),
        (&[&model, "--kld", &saved, "-c", "64"], 2, "has windows of 32", "leave out `-c`"),
        (&[&model, &text(), "-c", "4"], 2, "windows of 4 tokens", "at least 8"),
        (&[&model, &short, "--kld", &saved], 2, "the text has 12 tokens", "use a longer text"),
        (&[&model, &model, "--kld", &saved], 1, "valid UTF-8", ""),
        (
            &[&model, &text(), "--save-logits", "no/such/folder/file"],
            1,
            "cannot create no/such/folder/file",
            "make it first",
        ),
    ];
    for (args, code, error, hint) in cases {
        let (found_code, stderr) = failure(perplexity(args));
        assert_eq!(found_code, Some(*code), "{args:?}: {stderr}");
        assert!(stderr.contains(error) && stderr.contains(hint), "{args:?}: {stderr}");
    }
    for args in [
        &[&model[..]][..],
        &[&model, &text(), "--base", &model, "--kld", &saved],
        &[&model, &text(), "--kld", &saved, "--save-logits", "file"],
        &[&model, &text(), "--chunks", "0"],
    ] {
        assert_eq!(perplexity(args).status.code(), Some(2), "{args:?}");
    }
    // The two tiny models have one vocabulary; that of a real one is another.
    let real = real_model(crate::golden::SMOLLM2).display().to_string();
    let (code, stderr) = failure(perplexity(&[&other, &text(), "-c", "32", "--chunks", "1", "--base", &real]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("have different vocabularies") && stderr.contains("hint: "), "{stderr}");
    let (code, stderr) = failure(perplexity(&[&real, "--kld", &saved]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("a vocabulary of 288, the model's has 49152"), "{stderr}");
}

#[test]
fn contexts_beyond_the_models_own_are_noted() {
    let output = perplexity(&[&tiny(), &text(), "-c", "600", "--chunks", "1"]);
    assert!(output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("note: the model was trained for contexts of 512 tokens, not of 600"), "{stderr}");
}

#[test]
fn a_run_agrees_with_the_reference() {
    let out = json(compare(&[&tiny(), "--device", "cpu", "--json"]));
    assert_eq!(out["first_beyond"], Value::Null);
    let phases = out["phases"].as_array().expect("phases");
    assert!(number(&phases[0]["n_rows"]) > 1.0 && phases[1]["n_rows"] == 1, "{out}");
    for phase in phases {
        let tensors = phase["tensors"].as_array().expect("tensors");
        assert_eq!(tensors[0]["tensor"], "token_embd.out");
        assert_eq!(tensors.last().expect("some")["width"], 288);
        assert!(tensors.iter().all(|tensor| number(&tensor["nmse"]) <= 1e-4), "{out}");
        assert!(tensors.len() > 20, "{out}");
    }
    assert!(out["b"].as_str().is_some_and(|b| b.ends_with("reference kernels")), "{}", out["b"]);
}

#[test]
fn the_first_tensor_beyond_the_limit_is_named() {
    let output = compare(&[&tiny_named("llama-q4_0"), &tiny_named("llama-q8_0"), "--device", "cpu", "--limit", "1e-9"]);
    assert_eq!(output.status.code(), Some(1));
    let out = String::from_utf8(output.stdout).expect("UTF-8");
    let last = out.lines().last().expect("a verdict");
    assert!(last.starts_with("first beyond the limit, in the step of T = "), "{out}");
    assert!(last.contains(": token_embd.out: nmse ") && last.contains("(limit 1e-9) at ["), "{out}");
    assert!(out.contains("| blk.1.ffn_down.out"), "{out}");
    let output = compare(&[&tiny_named("llama-q4_0"), &tiny_named("llama-q8_0"), "--device", "cpu", "--limit", "1e9"]);
    assert!(stdout(output).ends_with("no tensor is beyond the limit\n"));
    // The same kernels twice make the same numbers, from a prompt of one token too.
    let args =
        [&tiny()[..], "--device", "cpu", "--kernels", "reference,reference", "--limit", "0", "--prompt", "", "--json"];
    let out = json(compare(&args));
    assert_eq!((&out["first_beyond"], &out["phases"][0]["n_rows"]), (&Value::Null, &1.into()));
}

#[test]
fn a_gpu_agrees_with_the_cpu() {
    // Drivers may have something to say on standard error.
    let output = compare(&[&tiny(), "--device", "gpu,cpu", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let out: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(out["first_beyond"], Value::Null);
    let [prompt, token] = [0, 1].map(|phase| {
        let tensors = out["phases"][phase]["tensors"].as_array().expect("tensors").iter();
        tensors.map(|tensor| tensor["tensor"].as_str().expect("a name")).collect::<Vec<_>>()
    });
    // Where attention rotates a single row's queries itself, they are no tensor.
    assert!(prompt.contains(&"blk.0.attn_q.rope") && prompt.len() >= token.len(), "{prompt:?} {token:?}");
    assert!(token.iter().all(|tensor| prompt.contains(tensor)), "{token:?}");
    assert!(out["b"].as_str().is_some_and(|b| b.contains("on CPU (")), "{}", out["b"]);
    assert!(out["a"].as_str().is_some_and(|a| !a.contains("on CPU (")), "{}", out["a"]);
}

#[test]
fn runs_that_cannot_be_compared_are_errors() {
    let (model, other) = (tiny(), tiny_named("gemma3-q8_0"));
    let real = [crate::golden::SMOLLM2, crate::golden::GEMMA3].map(|file| real_model(file).display().to_string());
    let cases: &[(&[&str], i32, &str)] = &[
        (&[&model, &other, "--device", "cpu"], 2, "one file is a llama, the other one a gemma3"),
        (&[&real[0], &real[1], "--device", "cpu"], 2, "the two files have different tokens for the prompt"),
        (&[&model, "--device", "cpu,gpu,cpu"], 2, "`--device` names 3, and there are two runs"),
        (&[&model, "--kernels", "mmx"], 2, "there are no kernels `mmx`"),
        (&[&model, "no/such/file.gguf"], 1, "no/such/file.gguf"),
        (&[&model, "--device", "no such adapter"], 1, "no GPU adapter whose name contains `no such adapter`"),
    ];
    for (args, code, error) in cases {
        let (found_code, stderr) = failure(compare(args));
        assert_eq!(found_code, Some(*code), "{args:?}: {stderr}");
        assert!(stderr.contains(error) && stderr.contains("hint: "), "{args:?}: {stderr}");
    }
}
