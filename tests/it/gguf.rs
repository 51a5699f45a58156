//! The GGUF reader and writer: what is written comes back, hostile files are refused, split files are one.

use std::path::Path;
use std::sync::Arc;

use halfbyte::Error;
use halfbyte::gguf::{Array, GgmlType, Gguf, GgufWriter, Value, ValueType};
use halfbyte::quant::{self, SharedBytes};
use proptest::prelude::*;

use crate::common::{golden, real_model};

mod hostile;

/// ggml's numbers of some types.
const F32: u32 = 0;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const IQ2_XXS: u32 = 16;
const I32: u32 = 26;

/// A small file with a value of each type, and tensors of three types.
fn small_file() -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.set("general.architecture", "llama");
    w.set("general.alignment", 64u32);
    w.set("a.u8", 200u8).set("a.i8", -100i8).set("a.u16", 60_000u16).set("a.i16", -30_000i16);
    w.set("a.u32", 4_000_000_000u32).set("a.i32", -2_000_000_000i32).set("a.u64", u64::MAX).set("a.i64", i64::MIN);
    w.set("a.f32", 0.1f32).set("a.f64", 0.1f64).set("a.bool", true);
    w.set("a.bytes", vec![0xff, 0xfe]);
    w.set("b.strings", &["", "a", "ÄÖ", "\0"][..]);
    w.set("b.raw", &[b"ok".to_vec(), vec![0xc3]][..]);
    w.set("b.i32s", &[1i32, -2, 3][..]).set("b.f32s", &[1.5f32, f32::NAN][..]).set("b.bools", &[true, false][..]);
    w.set("b.nested", Array::new(ValueType::Array, &[(&[1u8, 2][..]).into(), (&["x"][..]).into()]));
    w.tensor("m", &[2, 3], F32).tensor("q", &[2, 2, 32], Q4_0).tensor("v", &[5], F16);
    written(w, &[&[1; 24], &[2; 72], &[3; 10]])
}

/// The file that `w` plans, with these bytes for each tensor.
fn written(w: GgufWriter, tensors: &[&[u8]]) -> Vec<u8> {
    let mut stream = w.start(Vec::new(), Path::new("memory")).expect("memory takes everything");
    for bytes in tensors {
        stream.write(bytes).expect("memory takes everything");
    }
    stream.finish().expect("memory takes everything")
}

fn parse(bytes: &[u8]) -> halfbyte::Result<Gguf> {
    Gguf::from_bytes(SharedBytes::new(Arc::new(bytes.to_vec())), Path::new("test.gguf"))
}

#[test]
fn what_is_written_comes_back() {
    let file = parse(&small_file()).expect("our own file can be read");
    let m = file.metadata();
    assert_eq!((file.version(), file.alignment()), (3, 64));
    assert_eq!(m.str("general.architecture").expect("it is a string"), "llama");
    assert_eq!(m.u32("a.u8").expect("it fits"), 200);
    assert_eq!(m.u32("a.u32").expect("it fits"), 4_000_000_000);
    assert_eq!(m.get("a.i8").and_then(Value::int), Some(-100));
    assert_eq!(m.get("a.i64").and_then(Value::int), Some(i64::MIN.into()));
    assert_eq!(m.get("a.u64").and_then(Value::int), Some(u64::MAX.into()));
    assert_eq!(m.f32("a.f64").expect("it is a float"), 0.1);
    assert!(m.bool("a.bool").expect("it is a boolean"));
    let strings = m.strings("b.strings").expect("they are strings");
    assert_eq!(strings.iter().collect::<Vec<_>>(), [&b""[..], b"a", "ÄÖ".as_bytes(), b"\0"]);
    assert_eq!((strings.get(2), strings.get(4)), (Some("ÄÖ".as_bytes()), None));
    assert_eq!(m.i32s("b.i32s").expect("they are integers"), [1, -2, 3]);
    let Some(Value::Array(nested)) = m.get("b.nested") else { panic!("it is an array") };
    assert_eq!(nested.iter().map(|v| v.to_string()).collect::<Vec<_>>(), ["[1, 2]", "[\"x\"]"]);
    assert_eq!(m.bools("b.bools").expect("they are booleans"), [true, false]);
    let f32s = m.f32s("b.f32s").expect("they are floats");
    assert!(f32s[0] == 1.5 && f32s[1].is_nan());
    let tensors: Vec<_> =
        file.tensors().iter().map(|t| (t.name.as_str(), t.shape.clone(), t.n_bytes, t.offset % 64)).collect();
    assert_eq!(
        tensors,
        [("m", vec![2, 3], Some(24), 0), ("q", vec![2, 2, 32], Some(72), 0), ("v", vec![5], Some(10), 0)]
    );
}

#[test]
fn real_files_open() {
    let file = Gguf::open(&real_model("SmolLM2-135M-Instruct.Q4_1.gguf")).expect("a real file opens");
    assert_eq!((file.metadata().len(), file.tensors().len()), (33, 272));
    assert_eq!(file.tensor("token_embd.weight").expect("each model has one").shape, [49152, 576]);
    let tokens = file.metadata().strings("tokenizer.ggml.tokens").expect("it has tokens");
    assert_eq!((tokens.len(), tokens.get(1)), (49152, Some(&b"<|im_start|>"[..])));
    for entry in std::fs::read_dir(golden("tiny")).expect("the golden data are there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|e| e == "gguf") {
            Gguf::open(&path).expect("golden files open");
        }
    }
}

#[test]
fn getters_name_the_key() {
    let file = parse(&small_file()).expect("our own file can be read");
    let m = file.metadata();
    assert!(matches!(m.u32("none"), Err(Error::MissingKey { key }) if key == "none"));
    assert!(matches!(m.opt_u32("none"), Ok(None)));
    let wrong = m.opt_u32("general.architecture").expect_err("a string is no integer").to_string();
    assert_eq!(
        wrong,
        "metadata key `general.architecture`: expected an unsigned 32-bit integer, found string \"llama\""
    );
}

#[test]
fn getters_accept_what_fits_and_nothing_else() {
    let file = parse(&small_file()).expect("our own file can be read");
    let m = file.metadata();
    let refused = |result: halfbyte::Result<()>| assert!(matches!(result, Err(Error::BadKey { .. })), "{result:?}");
    refused(m.u32("a.i8").map(drop));
    refused(m.u32("a.u64").map(drop));
    refused(m.usize("a.i64").map(drop));
    refused(m.u32("a.f32").map(drop));
    refused(m.u32("a.bool").map(drop));
    refused(m.f32("a.u32").map(drop));
    refused(m.bool("a.u8").map(drop));
    refused(m.str("a.bytes").map(drop));
    refused(m.u32s("b.i32s").map(drop));
    refused(m.i32s("b.f32s").map(drop));
    refused(m.f32s("b.i32s").map(drop));
    refused(m.f32s("a.f32").map(drop));
    refused(m.strings("b.nested").map(drop));
    refused(m.strings("general.architecture").map(drop));
    assert_eq!(m.i32s("b.i32s").expect("they are integers"), [1, -2, 3]);
    assert_eq!(m.usize("a.u64").ok(), usize::try_from(u64::MAX).ok());

    let raw = m.strings("b.raw").expect("strings may be any bytes");
    assert_eq!(raw.iter().collect::<Vec<_>>(), [&b"ok"[..], &[0xc3]]);
    assert_eq!(raw.iter_lossy().collect::<Vec<_>>(), ["ok", "\u{fffd}"]);
    let strict: Vec<_> = raw.iter_str().collect();
    assert_eq!(strict[0].as_ref().ok(), Some(&"ok"));
    let wrong = strict[1].as_ref().expect_err("half a character is no UTF-8").to_string();
    assert!(wrong.contains("b.raw") && wrong.contains("index 1"), "{wrong}");
}

#[test]
fn weights_are_pieces_of_the_file() {
    let bytes = SharedBytes::new(Arc::new(small_file()));
    let within = bytes.as_ptr_range();
    let file = Gguf::from_bytes(bytes.clone(), Path::new("test.gguf")).expect("our own file can be read");
    let q = file.weight("q").expect("Q4_0 is supported").expect("it is there");
    assert_eq!((q.shape.as_slice(), q.format.name, q.bytes.len()), (&[2, 2, 32][..], "Q4_0", 72));
    assert!(q.bytes.iter().all(|&b| b == 2));
    assert!(within.contains(&q.bytes.as_ptr()), "the bytes were copied");
    assert!(file.weight("none").expect("absent is no error").is_none());
}

#[test]
fn tensors_of_other_types_are_named() {
    let mut w = GgufWriter::new();
    w.tensor("iq", &[1, 256], IQ2_XXS).tensor("next", &[8], I32);
    let mut bytes = written(w, &[&[0; 66], &[7; 32]]);
    let file = parse(&bytes).expect("types that cannot be computed with can be read");
    let iq = file.tensor("iq").expect("it is there");
    assert_eq!((iq.format_name().as_ref(), iq.n_bytes, iq.format()), ("IQ2_XXS", Some(66), None));
    assert!(matches!(file.weight("iq"), Err(Error::UnsupportedFormat { format, .. }) if format == "IQ2_XXS"));
    assert_eq!(*file.bytes(&file.tensors()[1]).expect("I32 has a size"), [7; 32]);

    let id = bytes.windows(4).position(|w| w == IQ2_XXS.to_le_bytes()).expect("the type is in the table");
    bytes[id..id + 4].copy_from_slice(&99u32.to_le_bytes());
    let file = parse(&bytes).expect("types that nobody knows can be listed");
    let iq = file.tensor("iq").expect("it is there");
    assert_eq!((iq.format_name().as_ref(), iq.n_bytes), ("type 99", None));
    assert!(matches!(file.weight("iq"), Err(Error::UnsupportedFormat { format, .. }) if format == "type 99"));
}

#[test]
fn both_tables_of_formats_agree() {
    for format in quant::ALL {
        let t = GgmlType::by_id(format.id).expect("each format is one of ggml's types");
        assert_eq!((t.name, t.block_len, t.block_bytes), (format.name, format.block_len, format.block_bytes));
    }
}

#[test]
fn files_that_cannot_be_opened_say_why() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let empty = dir.path().join("empty.gguf");
    std::fs::write(&empty, b"").expect("the folder is ours");
    let says = |path: &Path, what: &str| {
        let error = Gguf::open(path).expect_err("there is no model").to_string();
        assert!(error.contains(what), "{error}");
    };
    says(Path::new(""), "path of the model is empty");
    says(dir.path(), "is a directory");
    says(&dir.path().join("none.gguf"), "cannot open");
    says(&empty, "the file is empty");
    if cfg!(unix) {
        says(Path::new("/dev/null"), "not a regular file");
    }
}

/// Writes part `no` of `count`, with the tensors `names`, and returns its path.
fn write_part(dir: &Path, no: u16, count: u16, n_tensors: i32, names: &[&str]) -> std::path::PathBuf {
    let mut w = GgufWriter::new();
    if no == 0 {
        w.set("general.architecture", "llama");
    }
    w.set("split.no", no).set("split.count", count).set("split.tensors.count", n_tensors);
    for name in names {
        w.tensor(name, &[4], F32);
    }
    let path = dir.join(format!("m-{:05}-of-{count:05}.gguf", no + 1));
    let mut stream = w.create(&path).expect("the folder is ours");
    for _ in names {
        stream.write(&[no as u8; 10]).expect("the folder is ours");
        stream.write(&[no as u8; 6]).expect("the folder is ours");
    }
    stream.finish().expect("the folder is ours");
    path
}

#[test]
fn split_files_are_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    // The first part often has metadata only.
    let parts =
        [write_part(dir, 0, 3, 3, &[]), write_part(dir, 1, 3, 3, &["a", "b"]), write_part(dir, 2, 3, 3, &["c"])];
    for part in &parts {
        let file = Gguf::open(part).expect("whichever part is named, all are opened");
        assert_eq!(file.metadata().str("general.architecture").expect("the first part has it"), "llama");
        assert_eq!((file.n_parts(), file.path()), (3, part.as_path()));
        let tensors: Vec<_> = file.tensors().iter().map(|t| (t.name.as_str(), t.part)).collect();
        assert_eq!(tensors, [("a", 1), ("b", 1), ("c", 2)]);
        for (name, byte) in [("a", 1), ("b", 1), ("c", 2)] {
            let weight = file.weight(name).expect("F32 is supported").expect("it is there");
            assert_eq!(*weight.bytes, [byte; 16]);
        }
    }
    let alone = parse(&std::fs::read(&parts[1]).expect("it was written")).expect_err("a part is no file").to_string();
    assert!(alone.contains("part 2 of 3"), "{alone}");
}

#[test]
fn split_files_that_do_not_fit_are_refused() {
    let says = |path: &Path, what: &str| {
        let error = Gguf::open(path).expect_err("the parts do not fit").to_string();
        assert!(error.contains(what), "{error}");
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let first = write_part(dir, 0, 2, 2, &["a"]);
    says(&first, "m-00002-of-00002.gguf is missing");
    let second = write_part(dir, 1, 2, 2, &["a"]);
    says(&second, "tensor `a` is in two of its 2 parts");
    write_part(dir, 1, 2, 2, &["b", "c"]);
    says(&first, "3 tensors instead of 2");
    std::fs::copy(&first, &second).expect("the folder is ours");
    says(&first, "does not say that it is part 2 of 2");
    std::fs::write(&second, b"GGUF").expect("the folder is ours");
    says(&first, "m-00002-of-00002.gguf: not a usable GGUF file");
    let renamed = dir.join("renamed.gguf");
    std::fs::rename(&first, &renamed).expect("the folder is ours");
    says(&renamed, "has to end in `-00001-of-00002.gguf`");
}

/// Any value, arrays of arrays included.
fn any_value() -> impl Strategy<Value = Value> {
    let text = || proptest::collection::vec(any::<u8>(), 0..20);
    let scalar = prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let numbers = proptest::collection::vec(any::<f32>(), 0..9).prop_map(|v| Value::from(&v[..]));
    let texts = proptest::collection::vec(text(), 0..9).prop_map(|v| Value::from(&v[..]));
    let array = prop_oneof![numbers, texts];
    let nested = proptest::collection::vec(array.clone(), 0..4).prop_map(|v| Array::new(ValueType::Array, &v).into());
    prop_oneof![4 => scalar, 2 => array, 1 => nested]
}

proptest! {
    /// A file that is read and written again has the same bytes: nothing is lost, changed or reordered.
    #[test]
    fn reading_and_writing_again_changes_nothing(
        values in proptest::collection::vec(any_value(), 0..12),
        tensors in proptest::collection::vec((proptest::collection::vec(1usize..5, 0..3), 0usize..4, any::<u8>()), 0..6),
        log_alignment in 0u32..9,
    ) {
        let mut w = GgufWriter::new();
        w.set("general.alignment", 1u32 << log_alignment);
        for (i, value) in values.into_iter().enumerate() {
            w.set(&format!("key.{i}"), value);
        }
        let mut contents = Vec::new();
        for (i, (mut shape, format, byte)) in tensors.into_iter().enumerate() {
            let format = quant::ALL[format * (quant::ALL.len() - 1) / 3];
            shape.push(format.block_len * 2);
            w.tensor(&format!("t.{i}"), &shape, format.id);
            contents.push(vec![byte; format.bytes(shape.iter().product())]);
        }
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let bytes = written(w, &contents);

        let file = parse(&bytes).expect("our own file can be read");
        let mut w = GgufWriter::new();
        for (key, value) in file.metadata().iter() {
            w.set(key, value.clone());
        }
        for t in file.tensors() {
            prop_assert!(t.offset.is_multiple_of(1 << log_alignment));
            w.tensor(&t.name, &t.shape, t.format_id);
        }
        let read: Vec<SharedBytes> = file.tensors().iter().map(|t| file.bytes(t).expect("the type is known")).collect();
        let read: Vec<&[u8]> = read.iter().map(|b| &**b).collect();
        prop_assert_eq!(written(w, &read), bytes);
    }
}
