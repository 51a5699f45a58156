//! The commands that make files, as a user meets them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::names_in;
use super::published::{copy, patch, replace};
use crate::common::{golden, real_model};

/// The program, without what the user's environment would tell it.
pub(super) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.env_remove("HALFBYTE_MODEL").env_remove("HALFBYTE_DEVICE").env("NO_COLOR", "1").stdin(Stdio::null());
    command.args(args);
    command
}

fn halfbyte(args: &[&str]) -> Output {
    command(args).output().expect("the program starts")
}

/// Standard output of a run that ends well, and says nothing else.
pub(super) fn stdout(args: &[&str]) -> String {
    let output = halfbyte(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Exit code and standard error of a run that fails, and prints nothing.
pub(super) fn failure(args: &[&str]) -> (Option<i32>, String) {
    let output = halfbyte(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

pub(super) fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Rows of 576 are no whole blocks of 256.
#[test]
fn quantize_says_which_formats_did_not_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, to) = (real_model("SmolLM2-135M-Instruct.Q4_1.gguf"), folder.path().join("out.gguf"));
    let output = halfbyte(&["quantize", "--allow-requantize", utf8(&source), utf8(&to), "Q4_K_S", "-t", "2"]);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.starts_with("note: ") && stderr.contains(" tensors have rows that blocks do not fill: "),
        "{stderr}"
    );
    assert!(stderr.contains(" Q5_0 in place of Q4_K"), "{stderr}");
}

#[test]
fn quantize_makes_a_file_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, to) = (golden("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let (source, to) = (utf8(&source), utf8(&to));
    let said = stdout(&["quantize", source, to, "15", "-t", "2"]);
    assert!(said.starts_with(&format!("{to}: ")) && said.contains(" bits a weight: "), "{said}");
    let tokens = |model| stdout(&["generate", "--device", "cpu", "-n", "8", "--json", "-m", model, "abc"]);
    assert!(tokens(to).contains("\"n_generated\":8"));
    assert_eq!(stdout(&["inspect", to, "--key", "general.file_type"]), "15\n");
}

#[test]
fn convert_makes_a_file_that_runs() {
    let folder = copy("meta");
    let before = names_in(folder.path());
    let said = stdout(&["convert", utf8(folder.path()), "-t", "2"]);
    let path = said.split(": ").next().expect("a path");
    assert!(path.ends_with("-F16.gguf") && said.contains(" bits a weight: "), "{said}");
    assert_eq!(names_in(folder.path()).len(), before.len() + 1);
    let run = stdout(&["generate", "--device", "cpu", "-n", "4", "--json", "-m", path, "The man"]);
    assert!(run.contains("\"n_generated\":4"), "{run}");

    let to = folder.path().join("out.gguf");
    let said = stdout(&["convert", utf8(folder.path()), utf8(&to), "--type", "Q8_0", "--dry-run"]);
    let row = said.lines().find(|line| line.contains("blk.0.ffn_up.weight")).expect("a row for each tensor");
    assert!(row.contains("Q8_0") && !to.exists(), "{row}");
    stdout(&["convert", utf8(folder.path()), utf8(&to), "--type", "q8_0"]);
    assert_eq!(stdout(&["inspect", utf8(&to), "--key", "general.file_type"]), "7\n");
}

#[test]
fn convert_says_what_a_file_cannot() {
    let folder = copy("mistral");
    replace(&folder.path().join("config.json"), "\"sliding_window\": null", "\"sliding_window\": 100");
    let output = halfbyte(&["convert", utf8(folder.path()), utf8(&folder.path().join("out.gguf"))]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.starts_with("note: ") && stderr.contains("beyond 100 tokens"), "{stderr}");
}

#[test]
fn convert_says_what_is_wrong_and_leaves_nothing_behind() {
    type Spoil = fn(&Path);
    let cases: &[(&str, Spoil, &[&str])] = &[
        (
            "meta",
            |f| std::fs::remove_file(f.join("consolidated.01.pth")).expect("removed"),
            &["consolidated.01.pth is missing", "hint: fetch the rest"],
        ),
        (
            "meta",
            // The same length, so that the archive stays one.
            |f| {
                let (from, to) = (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem###################\n");
                patch(&f.join("consolidated.00.pth"), from, to);
            },
            &["`posix.system", "it is not run", "hint: "],
        ),
        (
            "meta",
            |f| std::fs::write(f.join("tokenizer.model"), "IQ== 0\n").expect("written"),
            &["tiktoken", "hint: convert the folder of the same model in Hugging Face's form"],
        ),
        (
            "llama",
            |f| replace(&f.join("config.json"), "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2"),
            &["no tensor `blk.1.attn_norm.weight`", "hint: settings and weights are not of one model"],
        ),
        (
            "llama",
            |f| replace(&f.join("config.json"), "\"silu\"", "\"relu\""),
            &["`hidden_act` is \"relu\"", "hint: the file would be another model"],
        ),
    ];
    for (name, spoil, parts) in cases {
        let folder = copy(name);
        spoil(folder.path());
        let before = names_in(folder.path());
        let (code, stderr) = failure(&["convert", utf8(folder.path()), utf8(&folder.path().join("out.gguf"))]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.starts_with("error: ") && parts.iter().all(|part| stderr.contains(part)), "{stderr}");
        assert_eq!(names_in(folder.path()), before, "{stderr}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, to) = (golden("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let said = stdout(&["quantize", utf8(&source), utf8(&to), "Q4_0", "--tensor-type", "ffn_up=Q8_0", "--dry-run"]);
    let row = said.lines().find(|line| line.contains("blk.1.ffn_up.weight")).expect("a row for each tensor");
    assert!(row.contains("Q8_0"), "{row}");
    assert!(!to.exists());
}

#[test]
fn quantize_says_what_is_wrong() {
    let (source, quantized) = (golden("tiny/llama-f32.gguf"), golden("tiny/llama-q4_0.gguf"));
    let (source, quantized) = (utf8(&source), utf8(&quantized));
    for (args, code, parts) in [
        (&["quantize", source, "out.gguf", "Q9"][..], 2, ["nothing called Q9", "hint: one of: F32, F16"]),
        (&["quantize", source, source, "Q8_0"], 2, ["both input and output", "hint: give the output another name"]),
        (&["quantize", quantized, "out.gguf", "Q8_0"], 2, ["is quantized already", "--allow-requantize"]),
        (&["quantize", source, "out.gguf", "Q4_0", "--tensor-type", "ffn_up"], 2, ["`ffn_up`", "PATTERN=FORMAT"]),
        (
            &["quantize", source, "out.gguf", "Q4_0", "--output-tensor-type", "x"],
            2,
            ["no format x", "hint: formats: F32"],
        ),
        (&["quantize", source, "out.gguf", "COPY"], 2, ["the same file again", "hint: "]),
        (
            &["quantize", source, "out.gguf", "Q4_0", "--imatrix", "none"],
            1,
            ["cannot open none", "hint: check the path"],
        ),
        (&["quantize", source, "out.gguf", "Q4_0", "--imatrix", source], 1, ["importance matrix", "halfbyte imatrix"]),
        (&["quantize", "none.gguf", "out.gguf", "Q4_0"], 1, ["none.gguf", "hint: "]),
    ] {
        let (found, stderr) = failure(args);
        assert_eq!(found, Some(code), "{args:?}: {stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
    }
}

#[test]
fn a_file_that_cannot_be_made_is_named_with_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, text) = (golden("tiny/llama-f32.gguf"), golden("README.md"));
    let (source, text) = (utf8(&source), utf8(&text));
    let missing = folder.path().join("none/out.gguf");
    let below_a_file = Path::new(text).join("out.gguf");
    for to in [&missing, &below_a_file].map(|path| utf8(path)) {
        for args in [
            &["quantize", source, to, "Q4_0"][..],
            &["imatrix", "-m", source, "-f", text, "-o", to, "-c", "16", "--chunks", "1"],
        ] {
            let (code, stderr) = failure(args);
            assert_eq!(code, Some(1), "{args:?}: {stderr}");
            let parts =
                [&format!("error: cannot create {to}: ")[..], "hint: the folder that it is to lie in is not there"];
            assert!(parts.iter().all(|part| stderr.contains(part)), "{args:?}: {stderr}");
        }
    }
}
