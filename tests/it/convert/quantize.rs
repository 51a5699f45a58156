//! Quantizing: which format each tensor gets, that the file is what it should be, and what is refused.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use halfbyte::convert::imatrix::Imatrix;
use halfbyte::convert::quantize::{self, Importances, Mix, Options, mixes};
use halfbyte::gguf::{Gguf, GgufWriter, Value};
use halfbyte::{Error, quant};
use serde::Deserialize;

use super::{file_with, names_in, write};
use crate::common::{Random, golden};

/// A model's shapes, and what llama.cpp makes of them (`golden/convert/mixes.json`).
#[derive(Deserialize)]
struct Model {
    metadata: serde_json::Map<String, serde_json::Value>,
    /// Shapes of the tensors; of the layers the first one's.
    tensors: HashMap<String, Vec<usize>>,
    mixes: HashMap<String, Formats>,
    /// With an importance matrix, where that changes anything.
    with_imatrix: HashMap<String, Formats>,
}

/// The format of most matrices, and by format and name the layers of others.
#[derive(Deserialize)]
struct Formats {
    most: String,
    #[serde(flatten)]
    others: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl Formats {
    fn of(&self, name: &str) -> &str {
        let name = name.strip_suffix(".weight").expect("a weight");
        let (layer, name) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, name)) => (layer.parse().ok(), name),
            None => (None, name),
        };
        let has = |layers: &Vec<usize>| layer.is_none_or(|layer| layers.contains(&layer));
        let other = self.others.iter().find(|(_, names)| names.get(name).is_some_and(has));
        other.map_or(&self.most, |(format, _)| format)
    }
}

impl Model {
    /// The file with these shapes, all zeros.
    fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            match value.as_u64() {
                Some(n) => writer.set(key, n as u32),
                None => writer.set(key, value.as_str().expect("a string")),
            };
        }
        let arch = self.metadata["general.architecture"].as_str().expect("a string");
        let n_layer = self.metadata[&format!("{arch}.block_count")].as_u64().expect("a count");
        let mut n_bytes = Vec::new();
        for (name, shape) in &self.tensors {
            let is_matrix = shape.len() > 1 && !name.contains("gate_inp");
            let format = if is_matrix { "F16" } else { "F32" };
            let format = quant::by_name(format).expect("a format");
            let n_layer = if name.starts_with("blk.") { n_layer } else { 1 };
            // The last layer first: what a rule counts is not the order in a file.
            for layer in (0..n_layer).rev() {
                writer.tensor(&name.replace("blk.0.", &format!("blk.{layer}.")), shape, format.id);
                n_bytes.push(format.bytes(shape.iter().product()));
            }
        }
        let mut stream = writer.create(path).expect("created");
        for n_bytes in n_bytes {
            stream.write(&vec![0; n_bytes]).expect("written");
        }
        stream.finish().expect("finished");
    }
}

#[test]
fn every_tensor_gets_the_format_that_llama_cpp_gives_it() {
    let text = std::fs::read_to_string(golden("convert/mixes.json")).expect("golden data");
    let models: HashMap<String, Model> = serde_json::from_str(&text).expect("JSON");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, model) in &models {
        let path = folder.path().join(name);
        model.write(&path);
        let gguf = Gguf::open(&path).expect("a file");
        let plain = mixes().map(|mix| (mix, None, &model.mixes[mix.name]));
        let importance = || Some(Importances { file: String::new(), imatrix: Imatrix::default() });
        let important =
            mixes().map(|mix| (mix, importance(), model.with_imatrix.get(mix.name).unwrap_or(&model.mixes[mix.name])));
        for (mix, importance, expected) in plain.chain(important) {
            let plan = quantize::plan(&gguf, &Options { importance, ..Options::new(mix) }).expect("a plan");
            for tensor in &plan.tensors {
                let stays = tensor.shape.len() < 2 || tensor.name.contains("gate_inp");
                let expected = if stays { "F32" } else { expected.of(&tensor.name) };
                assert_eq!(tensor.format_name(), expected, "{name}, {mix}: {}", tensor.name);
            }
        }
    }
}

/// `source` in the one format of `mix`.
fn pure(source: &str, mix: &str, to: &Path) {
    let gguf = Gguf::open(&golden(source)).expect("golden data");
    let options = Options { pure: true, ..Options::new(Mix::by_name(mix).expect("a mix")) };
    write(&quantize::plan(&gguf, &options).expect("a plan"), to).expect("written");
}

#[test]
fn weights_metadata_and_order_are_those_of_llama_cpp_s_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for format in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] {
        let path = folder.path().join(format);
        pure("tiny/llama-f32.gguf", format, &path);
        let ours = Gguf::open(&path).expect("a file");
        let theirs = Gguf::open(&golden(&format!("tiny/llama-{}.gguf", format.to_lowercase()))).expect("golden data");
        assert_eq!(ours.tensors().len(), theirs.tensors().len());
        for tensor in ours.tensors() {
            let expected = theirs.tensor(&tensor.name).expect("the same tensors");
            assert_eq!((tensor.format_id, &tensor.shape), (expected.format_id, &expected.shape), "{}", tensor.name);
            // Where there are scales to search for, ours are better ones.
            let is_rounded = ["F32", "F16", "BF16", "Q8_0"].contains(&tensor.format_name().as_ref());
            let is_same = ours.bytes(tensor).as_deref() == theirs.bytes(expected).as_deref();
            assert!(is_same || !is_rounded, "{format}: {} has other bytes", tensor.name);
        }
        for key in ["general.file_type", "general.architecture", "llama.block_count", "tokenizer.ggml.tokens"] {
            let text = |gguf: &Gguf| gguf.metadata().get(key).map(Value::to_string);
            assert_eq!(text(&ours), text(&theirs), "{format}: {key}");
        }
        let source = Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data");
        let names = |gguf: &Gguf| gguf.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&source));
    }
}

#[test]
fn tensors_of_many_chunks_are_the_same_as_in_one_piece() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, to) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    // Two chunks and a part of one, and a row that is longer than a thread's task.
    let (n_rows, k) = (9_001, 1_024);
    let mut random = Random::new(7);
    let numbers: Vec<f32> = (0..n_rows * k).map(|_| random.unit() - 0.5).collect();
    let long: Vec<f32> = (0..2 * 65_536).map(|_| random.unit() - 0.5).collect();
    file_with(&path, &[("token_embd.weight", &[n_rows, k], &numbers), ("long.weight", &[2, 65_536], &long)]);
    let gguf = Gguf::open(&path).expect("a file");
    let options = Options { pure: true, ..Options::new(Mix::by_name("Q5_1").expect("a mix")) };
    let plan = quantize::plan(&gguf, &options).expect("a plan");
    let mut told = Vec::new();
    plan.write(&to, [], &mut |advance| {
        told.push(advance.done_bytes);
        assert_eq!(advance.total_bytes, plan.n_bytes());
        ControlFlow::Continue(())
    })
    .expect("written");
    assert!(told.is_sorted() && told.len() > 4 && told.last() == Some(&plan.n_bytes()), "{told:?}");
    let quantized = Gguf::open(&to).expect("a file");
    let format = quant::by_name("Q5_1").expect("a format");
    for (name, numbers) in [("token_embd.weight", &numbers), ("long.weight", &long)] {
        let mut expected = vec![0; format.bytes(numbers.len())];
        (format.quantize)(numbers, None, &mut expected);
        let found = quantized.weight(name).expect("supported").expect("there");
        assert!(*found.bytes == *expected, "{name}");
    }
}

fn plan_error(gguf: &Gguf, options: &Options) -> Error {
    quantize::plan(gguf, options).err().expect("it is refused")
}

#[test]
fn what_is_quantized_stays_so_unless_asked_for() {
    let gguf = Gguf::open(&golden("tiny/llama-q4_0.gguf")).expect("golden data");
    let mut options = Options::new(Mix::by_name("q8_0").expect("a mix"));
    let error = plan_error(&gguf, &options);
    assert!(error.to_string().contains("is quantized already, to Q4_0"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--allow-requantize")));
    options.requantize = true;
    assert!(quantize::plan(&gguf, &options).is_ok());
    // Q8_0 loses nothing worth to speak of, and what has its format already is copied.
    for (file, mix) in [("tiny/llama-q8_0.gguf", "Q4_K_M"), ("tiny/llama-q4_0.gguf", "Q4_0")] {
        let gguf = Gguf::open(&golden(file)).expect("golden data");
        let options = Options { pure: true, ..Options::new(Mix::by_name(mix).expect("a mix")) };
        assert!(quantize::plan(&gguf, &options).is_ok(), "{file}");
    }
}

#[test]
fn formats_can_be_chosen_by_tensor() {
    let gguf = Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data");
    let format = |name| quantize::format(name).expect("a format");
    let mut options = Options {
        output: Some(format("q5_0")),
        token_embd: Some(format("F16")),
        ..Options::new(Mix::by_name("Q4_0").expect("a mix"))
    };
    options.choose(&gguf, "attn_[qk]", format("Q8_0")).expect("it matches");
    options.choose(&gguf, "attn_", format("Q4_1")).expect("it matches");
    let plan = quantize::plan(&gguf, &options).expect("a plan");
    let found = |name: &str| plan.tensors.iter().find(|t| t.name == name).map(|t| t.format_name());
    for (name, expected) in [
        ("output.weight", "Q5_0"),
        ("token_embd.weight", "F16"),
        ("blk.0.attn_q.weight", "Q8_0"),
        ("blk.1.attn_v.weight", "Q4_1"),
        ("blk.1.ffn_up.weight", "Q4_0"),
        ("blk.0.attn_norm.weight", "F32"),
    ] {
        assert_eq!(found(name), Some(expected), "{name}");
    }
    options.leave_output = true;
    let plan = quantize::plan(&gguf, &options).expect("a plan");
    assert!(plan.tensors.iter().any(|t| t.name == "output.weight" && t.format_name() == "F32"));
    for pattern in ["no such tensor", "("] {
        let error = options.choose(&gguf, pattern, format("Q8_0")).expect_err("it is refused");
        assert!(matches!(error, Error::Usage { .. }) && error.to_string().contains(pattern), "{error}");
    }
    assert!(quantize::format("Q9_9").is_err() && Mix::by_name("Q9_9").is_err());
}

#[test]
fn numbers_that_are_none_are_refused_and_leave_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in.gguf");
    let to = folder.path().join("out.gguf");
    for (bad, mix, refused) in [
        (f32::NAN, "Q4_0", true),
        (f32::NEG_INFINITY, "F16", true),
        (1e6, "F16", true),
        (-1e6, "Q8_0", true),
        (1e6, "BF16", false),
    ] {
        let mut numbers = vec![0.25; 2 * 64];
        numbers[70] = bad;
        file_with(&path, &[("blk.0.attn_q.weight", &[2, 64], &numbers)]);
        let gguf = Gguf::open(&path).expect("a file");
        let options = Options { pure: true, ..Options::new(Mix::by_name(mix).expect("a mix")) };
        let result = write(&quantize::plan(&gguf, &options).expect("a plan"), &to);
        assert_eq!(result.is_err(), refused, "{bad} as {mix}");
        if let Err(error) = result {
            assert!(
                matches!(&error, Error::Unrepresentable { tensor, .. } if tensor == "blk.0.attn_q.weight"),
                "{error}"
            );
            assert!(error.hint().is_some());
            assert_eq!(names_in(folder.path()), ["in.gguf"]);
        }
    }
}

#[test]
fn an_interrupt_leaves_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("out.gguf");
    std::fs::write(&to, "before").expect("written");
    let gguf = Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data");
    let plan = quantize::plan(&gguf, &Options::new(Mix::by_name("Q4_0").expect("a mix"))).expect("a plan");
    let error = plan.write(&to, [], &mut |_| ControlFlow::Break(())).expect_err("interrupted");
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(
        (names_in(folder.path()), std::fs::read(&to).expect("read")),
        (vec!["out.gguf".into()], b"before".into())
    );
}

#[test]
fn an_output_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in.gguf");
    std::fs::copy(golden("tiny/llama-f32.gguf"), &path).expect("copied");
    let gguf = Gguf::open(&path).expect("a file");
    let plan = quantize::plan(&gguf, &Options::new(Mix::by_name("Q4_0").expect("a mix"))).expect("a plan");
    let roundabout = folder.path().join(".").join("in.gguf");
    for (to, what) in [(&*roundabout, "both input and output"), (folder.path(), "not the name of a file")] {
        let error = plan.write(to, gguf.files(), &mut |_| ControlFlow::Continue(())).expect_err("refused");
        assert!(error.to_string().contains(what) && error.hint().is_some(), "{error}");
    }
    let error = write(&plan, &folder.path().join("none/out.gguf")).expect_err("refused");
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), std::fs::read(golden("tiny/llama-f32.gguf")).expect("read"));
}
