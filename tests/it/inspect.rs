//! `halfbyte inspect`: sections, one key, JSON, files that cannot be run, and a reader that leaves early.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use halfbyte::gguf::GgufWriter;
use serde_json::Value;

use crate::common::golden;

fn command(args: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.arg("inspect").args(args);
    command
}

/// What the command prints; it has to succeed.
fn inspect(file: &Path, options: &[&str]) -> String {
    let args: Vec<&OsStr> = std::iter::once(file.as_os_str()).chain(options.iter().map(OsStr::new)).collect();
    let output = command(&args).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

#[test]
fn sections_show_metadata_tensors_formats_and_graph() {
    let text = inspect(&golden("tiny/llama-q4_0.gguf"), &[]);
    let has = |words: &str| {
        let found = text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(words));
        assert!(found, "no line has {words:?}:\n{text}");
    };
    has("GGUF version 3");
    has("general.architecture string \"llama\"");
    has("blk.1.attn_q.weight [256, 256] Q4_0 36864");
    has("Q4_0 16 tensors");
    has("matmul(blk.1.attn_norm.out, blk.1.attn_q.weight [256, 256])");
    let formats = inspect(&golden("tiny/llama-q4_0.gguf"), &["--show", "formats"]);
    assert!(formats.contains("\nformats\n") && !formats.contains("\ntensors\n"), "{formats}");
}

#[test]
fn one_key_is_printed_whole() {
    let file = golden("tiny/llama-q4_0.gguf");
    assert_eq!(inspect(&file, &["--key", "general.architecture"]), "llama\n");
    assert_eq!(inspect(&file, &["--key", "general.architecture", "--json"]), "\"llama\"\n");
    let absent = command(&[file.as_os_str(), "--key".as_ref(), "none".as_ref()]).output().expect("the program runs");
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("no metadata key `none`"));
}

#[test]
fn json_has_all_sections() {
    let json: Value = serde_json::from_str(&inspect(&golden("tiny/llama-q4_0.gguf"), &["--json"])).expect("it is JSON");
    assert_eq!(json["metadata"]["general.architecture"], "llama");
    assert_eq!(json["formats"][0]["format"], "Q4_0");
    assert_eq!(json["graph"][0].as_str().map(|op| op.contains("embed(token_embd.weight")), Some(true));
    let q = json["tensors"].as_array().and_then(|t| t.iter().find(|t| t["name"] == "blk.1.attn_q.weight"));
    let q = q.expect("the tensor is listed");
    assert_eq!((&q["shape"], &q["n_bytes"], &q["supported"]), (&[256, 256].into(), &36864.into(), &true.into()));
}

#[test]
fn files_that_cannot_be_run_are_shown() {
    const IQ2_XXS: u32 = 16;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("other.gguf");
    let mut w = GgufWriter::new();
    w.set("general.architecture", "other").set("other.text", "a\x1b[2Jb").tensor("t", &[2, 256], IQ2_XXS);
    let mut stream = w.create(&path).expect("the folder is ours");
    stream.write(&[0; 132]).expect("the folder is ours");
    stream.finish().expect("the folder is ours");
    let text = inspect(&path, &[]);
    for words in ["IQ2_XXS", "not supported", "none: architecture `other` is not supported", r#""a\u{1b}[2Jb""#] {
        assert!(text.contains(words), "no {words:?}:\n{text}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    // More than a pipe holds, so that the program still writes when the other end is closed.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("long.gguf");
    let mut w = GgufWriter::new();
    w.set("long", "0123456789".repeat(100_000).as_str());
    w.create(&path).and_then(|stream| stream.finish()).expect("the folder is ours");
    let mut child = command(&[path.as_os_str(), "--key".as_ref(), "long".as_ref()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_exact(&mut [0; 10]).expect("it writes something");
    drop(stdout);
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
