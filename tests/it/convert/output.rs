//! Where files are written: nothing that is there is lost, and nothing half is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use halfbyte::convert::Plan;
use halfbyte::convert::quantize::{self, Mix, Options};
use halfbyte::gguf::Gguf;

use super::commands::{failure, utf8};
use super::{names_in, write};
use crate::common::golden;

fn plan() -> Plan {
    let gguf = Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data");
    quantize::plan(&gguf, &Options::new(Mix::by_name("Q4_0").expect("a mix"))).expect("a plan")
}

/// The bytes of the file that [`plan`] is about.
fn written() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    write(&plan(), &path).expect("written");
    fs::read(path).expect("read")
}

#[cfg(unix)]
#[test]
fn a_pipe_takes_the_bytes_and_stays_a_pipe() {
    use std::os::unix::fs::FileTypeExt;

    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("pipe", &link).expect("a link");
    for to in [&pipe, &link] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).expect("read")
        });
        write(&plan(), to).expect("written");
        assert!(reader.join().expect("no panic") == written());
        assert_eq!(names_in(folder.path()), ["link", "pipe"]);
        assert!(fs::metadata(&pipe).expect("it is there").file_type().is_fifo());
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_to_where_the_file_is_to_lie() {
    let folder = tempfile::tempdir().expect("a folder");
    let [links, files] = ["links", "files"].map(|name| folder.path().join(name));
    for folder in [&links, &files] {
        fs::create_dir(folder).expect("made");
    }
    fs::write(files.join("old.gguf"), "before").expect("written");
    for (name, place) in [("to-old", "../files/old.gguf"), ("to-link", "to-old"), ("to-none", "../files/new.gguf")] {
        std::os::unix::fs::symlink(place, links.join(name)).expect("a link");
        write(&plan(), &links.join(name)).expect("written");
        assert!(fs::symlink_metadata(links.join(name)).expect("it is there").is_symlink(), "{name}");
        assert!(fs::read(links.join(name)).expect("read") == written(), "{name}");
        fs::write(files.join("old.gguf"), "before").expect("written");
    }
    assert_eq!(names_in(&files), ["new.gguf", "old.gguf"]);
    assert_eq!(names_in(&links), ["to-link", "to-none", "to-old"]);
}

#[test]
fn what_killed_processes_left_is_removed_but_not_what_others_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let kept = [".out.gguf.3.unfinished", ".out.gguf.notes.unfinished", ".other.gguf.1.unfinished", ".out.gguf.1"];
    for name in [".out.gguf.1.unfinished", ".out.gguf.22.unfinished"].iter().chain(&kept) {
        fs::write(at(name), "half").expect("written");
    }
    let another = File::open(at(kept[0])).expect("opened");
    another.lock().expect("locked");
    write(&plan(), &at("out.gguf")).expect("written");
    let mut expected = [&kept[..], &["out.gguf"]].concat();
    expected.sort_unstable();
    assert_eq!(names_in(folder.path()), expected);
}

/// A text of some tokens.
fn text_in(folder: &Path) -> PathBuf {
    let path = folder.join("text.txt");
    fs::write(&path, "You can judge a model by its words. ".repeat(40)).expect("written");
    path
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model.gguf");
    fs::copy(golden("tiny/llama-f32.gguf"), &model).expect("copied");
    let text = text_in(folder.path());
    let imatrix = folder.path().join("imatrix.gguf");
    let (model, text, imatrix) = (utf8(&model), utf8(&text), utf8(&imatrix));
    super::commands::stdout(&["imatrix", "-m", model, "-f", text, "-o", imatrix, "-c", "16", "--chunks", "2"]);
    let before = [model, text, imatrix].map(|path| fs::read(path).expect("read"));
    let perplexity = ["perplexity", "--device", "cpu", "-c", "16", "--chunks", "1", model, text, "--save-logits"];
    for args in [
        &["quantize", model, model, "Q4_0"][..],
        &["quantize", model, imatrix, "Q4_0", "--imatrix", imatrix],
        &["quantize", model, text, "Q4_0", "--max-kld", "1", "--kld-text", text],
        &["imatrix", "-m", model, "-f", text, "-o", text],
        &["imatrix", "-m", model, "-f", text, "-o", model],
        &[&perplexity[..], &[model]].concat(),
        &[&perplexity[..], &[text]].concat(),
    ] {
        let (code, stderr) = failure(args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains("is both input and output\nhint: "), "{args:?}: {stderr}");
        assert!([model, text, imatrix].map(|path| fs::read(path).expect("read")) == before, "{args:?}");
    }
    assert_eq!(names_in(folder.path()), ["imatrix.gguf", "model.gguf", "text.txt"]);
}

#[test]
fn files_of_a_published_model_are_no_place_for_what_it_becomes() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(golden("convert/llama")).expect("golden data").flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let path = folder.path().join(name);
        let (code, stderr) = failure(&["convert", utf8(folder.path()), utf8(&path)]);
        assert_eq!(code, Some(2), "{name}: {stderr}");
        assert!(stderr.contains("is both input and output"), "{name}: {stderr}");
    }
}

/// Starts a command that writes to `folder`, sends it a signal while it does, and gives its exit code.
#[cfg(unix)]
fn killed(args: &[&str], folder: &Path, signal: &str) -> Option<i32> {
    let mut child = super::commands::command(args).spawn().expect("the program starts");
    while names_in(folder).is_empty() {
        assert!(child.try_wait().expect("it can be asked").is_none(), "{args:?} ended before it wrote");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    child.wait().expect("it ends").code()
}

#[cfg(unix)]
#[test]
fn who_is_killed_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = crate::common::real_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE");
    let to = folder.path().join("out");
    let (model, text, to) = (utf8(&model), utf8(&text), utf8(&to));
    let quantize = ["quantize", model, to, "Q6_K", "--allow-requantize", "-t", "1"];
    let perplexity = ["perplexity", "--device", "cpu", "-t", "1", model, text, "--save-logits", to];
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for args in [&quantize[..], &perplexity] {
            assert_eq!(killed(args, folder.path(), signal), Some(code), "{signal} {args:?}");
            assert_eq!(names_in(folder.path()), [""; 0], "{signal} {args:?}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_so_large_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, to) = (golden("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let limited = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 8 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_halfbyte")])
        .args(["quantize", utf8(&source), utf8(&to), "Q8_0"])
        .output()
        .expect("sh runs");
    let stderr = String::from_utf8_lossy(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains("hint: make room where"), "{stderr}");
    assert_eq!(names_in(folder.path()), [""; 0], "{stderr}");
}
