//! The commands that make files, as a user meets them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::golden;

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

#[test]
fn quantize_makes_a_file_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, to) = (golden("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let (source, to) = (utf8(&source), utf8(&to));
    let output = halfbyte(&["quantize", source, to, "15", "-t", "2"]);
    assert!(output.status.success());
    // All matrices of the tiny model have rows of 64 numbers or so.
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        stderr.starts_with("note: ") && stderr.contains(" tensors have rows that blocks do not fill: "),
        "{stderr}"
    );
    assert!(stderr.contains(" Q5_0 in place of Q4_K") && stderr.contains(" Q8_0 in place of Q6_K"), "{stderr}");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.starts_with(&format!("{to}: ")) && said.contains(" bits a weight: "), "{said}");
    let tokens = |model| stdout(&["generate", "--device", "cpu", "-n", "8", "--json", "-m", model, "abc"]);
    assert!(tokens(to).contains("\"n_generated\":8"));
    assert_eq!(stdout(&["inspect", to, "--key", "general.file_type"]), "15\n");
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
