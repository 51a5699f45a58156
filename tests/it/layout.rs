//! The rules of the source tree, read from the sources themselves: a rule that no test holds is soon none.
//!
//! Which module may name which, which folder may name which crate, what each file opens with, and that the documents
//! name what there is. `docs/architecture.md` says why.

use std::fs;
use std::path::{Path, PathBuf};

use halfbyte::{model, quant};

use code::{Source, code_of};

mod code;

/// An arrow means "may name", and so may be whatever can be reached along arrows.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["convert", "eval", "hub"]),
    ("convert", &["engine", "output"]),
    ("eval", &["engine", "output"]),
    ("engine", &["model", "backend", "chat"]),
    ("model", &["graph", "gguf"]),
    ("backend", &["graph", "quant"]),
    ("chat", &["tokenizer"]),
    ("tokenizer", &["gguf"]),
    ("hub", &["error", "file"]),
    ("output", &["error", "file"]),
    ("graph", &["quant", "error"]),
    ("gguf", &["quant", "error", "file"]),
    // The hint to an unsupported format lists those that are supported.
    ("error", &["quant"]),
    ("quant", &[]),
    ("file", &[]),
];

/// Who alone may say what.
const WORDS: &[(&str, &[&str])] = &[
    ("wgpu::", &["src/backend/gpu"]),
    ("ash::", &["src/backend/gpu"]),
    ("backend::gpu", &["src/backend/gpu", "src/engine", "src/cli"]),
    ("backend::cpu", &["src/backend/cpu", "src/convert", "src/engine", "src/cli"]),
    ("clap::", &["src/cli"]),
    ("indicatif::", &["src/cli"]),
    ("comfy_table::", &["src/cli"]),
    ("anstream::", &["src/cli", "src/main.rs"]),
    ("print!", &["src/cli", "src/main.rs"]),
    ("println!", &["src/cli", "src/main.rs"]),
    ("eprint!", &["src/cli", "src/main.rs"]),
    ("eprintln!", &["src/cli", "src/main.rs"]),
    ("io::stdout", &["src/cli", "src/main.rs"]),
    ("io::stderr", &["src/cli", "src/main.rs"]),
    ("dbg!", &[]),
    ("memmap2::", &["src/gguf"]),
    ("minijinja::", &["src/chat"]),
    ("rustyline::", &["src/cli"]),
    ("ureq::", &["src/hub"]),
];

/// The folders of the crate with sources in Rust.
const RUST: [&str; 4] = ["src", "tests", "benches", "fuzz/fuzz_targets"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this extension, as paths from the root with `/` in them, sorted.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.expect("the sources can be listed");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.to_str().expect("our paths are ASCII").replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Fails with all that is wrong, not only the first.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whether module `from` may name module `to`.
fn may_name(from: &str, to: &str) -> bool {
    let arrows = ARROWS.iter().find(|(module, _)| *module == from).map_or(&[][..], |(_, to)| to);
    from == to || arrows.iter().any(|next| *next == to || may_name(next, to))
}

#[test]
fn modules_name_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for path in files("src", "rs").iter().filter(|path| *path != "src/lib.rs") {
        let source = Source::new(path, &read(path));
        let from = source.module();
        assert!(ARROWS.iter().any(|(module, _)| *module == from), "{path}: the module {from} has no place in ARROWS");
        for (line, to) in source.named_modules() {
            let known = ARROWS.iter().any(|(module, _)| *module == to);
            if known && !may_name(from, &to) {
                wrong.push(format!("{path}:{line}: {from} may not name {to}"));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_arrows_form_layers() {
    for (module, arrows) in ARROWS {
        for to in *arrows {
            assert!(!may_name(to, module), "{module} and {to} name each other");
        }
    }
}

#[test]
fn crates_and_printing_stay_in_their_folders() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let code = code_of(&read(&path));
        for (i, line) in code.lines().enumerate() {
            for (word, folders) in WORDS {
                if code::says(line, word) && !folders.iter().any(|folder| path.starts_with(folder)) {
                    wrong.push(format!("{path}:{}: only {} may say `{word}`", i + 1, folders.join(", ")));
                }
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_file_says_what_it_is_for() {
    let paths: Vec<_> = RUST.iter().flat_map(|folder| files(folder, "rs")).collect();
    let wrong: Vec<_> = paths.into_iter().filter(|path| !read(path).starts_with("//! ")).collect();
    assert_none(&wrong);
}

/// What the header of a kernel says, in this order; `const` may be left out where there is none.
const KERNEL_FIELDS: [&str; 7] = ["grid", "group", "const", "import", "tail", "exact", "cpu"];

/// What a WGSL header says about `field`, the first line of it.
fn field<'a>(header: &[&'a str], field: &str) -> Option<(usize, &'a str)> {
    header.iter().enumerate().find_map(|(i, line)| {
        let rest = line.strip_prefix("//! ")?.strip_prefix(field)?;
        (rest.is_empty() || rest.starts_with(' ')).then_some((i, rest.trim()))
    })
}

#[test]
fn shaders_have_headers_of_one_form() {
    let mut wrong = Vec::new();
    for path in files("shaders", "wgsl") {
        let text = read(&path);
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let name = Path::new(&path).file_stem().and_then(|s| s.to_str()).expect("a file has a name");
        if !header.first().is_some_and(|line| line.starts_with(&format!("//! {name} — "))) {
            wrong.push(format!("{path}: does not open with `//! {name} — …`"));
        }
        if header.get(1) != Some(&"//!") {
            wrong.push(format!("{path}: no empty line after the first line of the header"));
        }
        if let Some((_, cpu)) = field(&header, "cpu")
            && !root().join(cpu).is_file()
        {
            wrong.push(format!("{path}: its twin on the CPU, {cpu}, does not exist"));
        }
        for import in field(&header, "import").map_or("", |(_, names)| names).split(", ").filter(|s| !s.is_empty()) {
            let file = root().join(format!("shaders/lib/{import}.wgsl"));
            // `quant2` is a second file of the folder `quant`.
            let folder = root().join("shaders").join(import.trim_end_matches('2'));
            if !file.is_file() && !folder.is_dir() {
                wrong.push(format!(
                    "{path}: imports {import}, which is no module of shaders/lib and no folder of shaders"
                ));
            }
        }
        if text.contains("@compute") {
            wrong.extend(wrong_kernel(&path, &header, &text));
        }
    }
    assert_none(&wrong);
}

/// What is wrong with a kernel beyond what every shader has.
fn wrong_kernel(path: &str, header: &[&str], text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last = 0;
    for name in KERNEL_FIELDS {
        match field(header, name) {
            None if name == "const" => {}
            None => wrong.push(format!("{path}: the header has no line `{name}`")),
            Some((line, _)) if line < last => wrong.push(format!("{path}: `{name}` is out of order")),
            Some((line, _)) => last = line,
        }
    }
    for name in ["tail", "exact", "cpu"] {
        if field(header, name).is_some_and(|(_, text)| text.is_empty()) {
            wrong.push(format!("{path}: the line `{name}` is empty"));
        }
    }
    if text.matches("@compute").count() != 1 || !text.contains("fn main(") {
        wrong.push(format!("{path}: a kernel has one entry point, `main`"));
    }
    if Path::new(path).parent() != Some(Path::new("shaders")) {
        wrong.push(format!("{path}: kernels lie directly in shaders/"));
    }
    wrong
}

/// All that stands in backticks in a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What the README lists after `<!-- support:NAME -->`, sorted.
fn supported<'a>(readme: &'a str, name: &str) -> Vec<&'a str> {
    let (_, rest) = readme.split_once(&format!("<!-- support:{name} -->")).expect("the README says what is supported");
    let (list, _) = rest.split_once("<!-- /support -->").expect("the list ends");
    let mut names: Vec<_> = list.split(',').map(str::trim).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_readme_lists_what_is_supported() {
    let readme = read("README.md");
    let mut formats: Vec<_> = quant::ALL.iter().map(|format| format.name).collect();
    formats.sort_unstable();
    assert_eq!(supported(&readme, "formats"), formats);
    let mut architectures: Vec<_> = model::architectures().collect();
    architectures.sort_unstable();
    assert_eq!(supported(&readme, "architectures"), architectures);
    let mut classes = halfbyte::convert::classes();
    classes.sort_unstable();
    assert_eq!(supported(&readme, "classes"), classes);
}

/// Documents whose paths have to exist.
const DOCUMENTS: [&str; 6] =
    ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/decisions.md", "docs/kernels.md", "docs/perf.md"];

/// Whether what a document has in backticks is the path of one file or folder. `src/quant/FORMAT.rs` stands for many.
fn is_path(quoted: &str) -> bool {
    let roots = ["src/", "shaders/", "tests/", "docs/", "benches/", "fuzz/", "scripts/", "./scripts/", ".ci/"];
    let pattern = |c: char| c.is_uppercase() || " *<{".contains(c);
    roots.iter().any(|root| quoted.starts_with(root)) && !quoted.contains(pattern)
}

#[test]
fn documents_name_what_there_is() {
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let paths = quoted(&text).into_iter().filter(|quoted| is_path(quoted));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for path in paths.chain(links.filter(|target| is_path(target))) {
            if !root().join(path).exists() {
                wrong.push(format!("{document}: {path} does not exist"));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_architecture_page_names_every_folder_and_module() {
    let text = read("docs/architecture.md");
    let named = quoted(&text);
    let mut wanted: Vec<String> = files("src", "rs")
        .into_iter()
        .map(|path| match path.rsplit_once('/') {
            Some(("src", _)) | None => path,
            Some((folder, _)) => format!("{folder}/"),
        })
        .collect();
    wanted.dedup();
    let missing: Vec<_> = wanted.into_iter().filter(|path| !named.contains(&path.as_str())).collect();
    assert_none(&missing);
}
