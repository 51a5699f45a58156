//! The GGUF reader and writer: what is written comes back, hostile files are refused, split files are one.

use std::path::Path;
use std::sync::Arc;

use halfbyte::Error;
use halfbyte::gguf::{Gguf, GgufWriter, Value};
use halfbyte::quant::SharedBytes;

use crate::common::{golden, real_model};

/// A small file with a value of each type and three tensors, one of them of a type that nobody knows.
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
    w.tensor("m", &[2, 3], 0).tensor("q", &[2, 2, 32], 2).tensor("v", &[5], 1);
    let mut stream = w.start(Vec::new(), Path::new("small")).expect("memory takes everything");
    let n_bytes = [24, 72, 10];
    for (i, n) in n_bytes.into_iter().enumerate() {
        stream.write(&vec![i as u8 + 1; n]).expect("memory takes everything");
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
