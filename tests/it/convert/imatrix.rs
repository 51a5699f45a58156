//! Importance matrices: what is summed up, both kinds of files, and what they change.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use halfbyte::Error;
use halfbyte::backend::cpu::{self, Kernels, Options as CpuOptions};
use halfbyte::backend::{KvFormat, Program, Row, Step, Want};
use halfbyte::convert::imatrix::{Collect, Entry, Imatrix, collect};
use halfbyte::convert::quantize::{self, Importances, Mix, Options};
use halfbyte::gguf::Gguf;
use halfbyte::model::Model;
use halfbyte::tokenizer;

use super::write;
use crate::common::golden;
use crate::golden::limits;

fn tiny() -> Gguf {
    Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data")
}

const TEXT: &str = "The first man on the moon was Neil Armstrong, who landed there on the 20th of July 1969.";

fn options(text: &str) -> Collect<'_> {
    Collect { text, name: "text.txt", chunk_len: 16, max_chunks: Some(2), threads: 2 }
}

fn silent(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn sums_are_those_of_what_goes_into_each_matrix() {
    let gguf = tiny();
    let found = collect(&gguf, &options(TEXT), &mut silent).expect("collected");
    assert_eq!((found.n_chunks, found.chunk_len, &found.datasets[..]), (2, 16, &["text.txt".to_owned()][..]));

    // The same out of single values of the reference, chunk by chunk.
    let model = Model::from_gguf(&gguf).expect("a model");
    let tokens = tokenizer::from_gguf(&gguf).expect("a tokenizer").encode_prompt(TEXT).expect("tokens");
    let options =
        CpuOptions { kernels: Kernels::Reference, kv: KvFormat::F32, keep_tensors: true, ..CpuOptions::default() };
    let mut expected = HashMap::from([("attn_norm.out", vec![0.0_f64; 256]), ("ffn_norm.out", vec![0.0; 256])]);
    for chunk in tokens.chunks_exact(16).take(2) {
        let mut program = cpu::compile(&model.graph, &model, limits(32, 32), options).expect("compiled");
        let mut chunk = chunk.to_vec();
        chunk[0] = tokens[0];
        let rows: Vec<Row> = (0..).zip(&chunk).map(|(pos, &token)| Row { token, pos, seq: 0 }).collect();
        let step = Step { rows: &rows, pages: &[&[0]], outputs: &[], want: Want::Nothing };
        program.run(&step).expect("it runs");
        for (name, sums) in &mut expected {
            let numbers = program.tensor(&format!("blk.1.{name}")).expect("read").expect("there");
            for row in numbers.chunks_exact(256) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x).powi(2));
            }
        }
    }
    for (matrix, value) in [("attn_q", "attn_norm.out"), ("attn_v", "attn_norm.out"), ("ffn_up", "ffn_norm.out")] {
        let entry = &found.entries[&format!("blk.1.{matrix}.weight")];
        assert_eq!(entry.counts, [32.0]);
        for (i, (&found, &expected)) in entry.sums.iter().zip(&expected[value]).enumerate() {
            assert!(
                (f64::from(found) - expected).abs() <= 1e-3 * expected,
                "{matrix}, column {i}: {found}, not {expected}"
            );
        }
    }
    // Nothing is known about the table, and no row is wanted of the output.
    assert_eq!(found.entries.len(), 2 * 7);
}

/// Each row goes into the matrices of the experts that it uses, and into no others.
#[test]
fn sums_of_experts_are_those_of_the_rows_that_use_them() {
    let gguf = Gguf::open(&golden("tiny/mixtral-q8_0.gguf")).expect("golden data");
    let found = collect(&gguf, &options(TEXT), &mut silent).expect("collected");
    let entry = |name: &str| &found.entries[&format!("blk.1.{name}.weight")];
    let (router, gate, up, down) =
        (entry("ffn_gate_inp"), entry("ffn_gate_exps"), entry("ffn_up_exps"), entry("ffn_down_exps"));
    assert_eq!(gate, up);
    assert_eq!(gate.counts, down.counts);
    // 32 rows use two experts each.
    assert_eq!((router.counts[0], gate.counts.iter().sum::<f32>()), (32.0, 64.0));
    assert!(gate.counts.len() > 2 && gate.counts.iter().all(|&count| count < 64.0));
    let k = router.sums.len();
    for (i, &of_all) in router.sums.iter().enumerate() {
        let by_expert: f32 = gate.sums.iter().skip(i).step_by(k).sum();
        assert!((by_expert - 2.0 * of_all).abs() <= 1e-4 * by_expert, "column {i}: {by_expert}, not twice {of_all}");
    }
    for (sums, &count) in down.sums.chunks(down.sums.len() / down.counts.len()).zip(&down.counts) {
        assert_eq!(sums.iter().all(|&sum| sum == 0.0), count == 0.0);
    }
}

#[test]
fn a_text_that_is_too_short_and_an_interrupt_end_it() {
    let gguf = tiny();
    let error = collect(&gguf, &options("Hi"), &mut silent).expect_err("too short");
    assert!(
        matches!(error, Error::Usage { .. }) && error.to_string().contains("fewer than one chunk of 16"),
        "{error}"
    );
    let error = collect(&gguf, &options(TEXT), &mut |_, _| ControlFlow::Break(())).expect_err("interrupted");
    assert!(matches!(error, Error::Interrupted));
}

fn some() -> Imatrix {
    let entry = |scale: f32, counts: &[f32]| Entry {
        sums: (0..256 * counts.len()).map(|i| scale * i as f32).collect(),
        counts: counts.to_vec(),
    };
    Imatrix {
        entries: [
            ("blk.0.attn_q.weight".to_owned(), entry(0.5, &[4.0])),
            ("blk.0.ffn_down_exps.weight".to_owned(), entry(2.0, &[3.0, 0.0, 8.0])),
        ]
        .into(),
        datasets: vec!["a.txt".into()],
        n_chunks: 7,
        chunk_len: 512,
    }
}

#[test]
fn files_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.gguf");
    write(&some().plan(), &path).expect("written");
    assert_eq!(Imatrix::read(&path).expect("read"), some());
    let gguf = Gguf::open(&path).expect("a file");
    assert_eq!(gguf.tensor("blk.0.ffn_down_exps.weight.in_sum2").expect("sums").shape, [3, 256]);
    assert_eq!(gguf.tensor("blk.0.ffn_down_exps.weight.counts").expect("counts").shape, [3, 1]);
    // An expert that no token went through counts like any other.
    let means = some().entries["blk.0.ffn_down_exps.weight"].means();
    assert_eq!((means[1], means[256], means[513]), (2.0 / 3.0, 1.0, 2.0 * 513.0 / 8.0));
}

/// A file of the older kind.
fn older(values: &[f32], n_values: i32) -> Vec<u8> {
    let name = b"blk.0.attn_q.weight";
    let mut bytes = Vec::new();
    bytes.extend(1_i32.to_le_bytes());
    bytes.extend((name.len() as i32).to_le_bytes());
    bytes.extend(name);
    bytes.extend(4_i32.to_le_bytes());
    bytes.extend(n_values.to_le_bytes());
    values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    bytes.extend(9_i32.to_le_bytes());
    bytes.extend(5_i32.to_le_bytes());
    bytes.extend(b"a.txt");
    bytes
}

#[test]
fn the_older_kind_of_file_is_read_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.dat");
    std::fs::write(&path, older(&[2.0, 4.0], 2)).expect("written");
    let read = Imatrix::read(&path).expect("read");
    assert_eq!(read.entries["blk.0.attn_q.weight"].means(), [0.5, 1.0]);
    assert_eq!((read.n_chunks, &read.datasets[..]), (9, &["a.txt".to_owned()][..]));
}

#[test]
fn files_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.dat");
    for (bytes, what) in [
        (b"no".to_vec(), "not a usable importance matrix"),
        (older(&[1.0], i32::MAX), "not a usable importance matrix"),
        (older(&[1.0], -1), "not a usable importance matrix"),
        (older(&[f32::NAN, 1.0], 2), "make no sense"),
        (older(&[-1.0, 1.0], 2), "make no sense"),
        (std::fs::read(golden("tiny/llama-f32.gguf")).expect("read"), "not one of an importance matrix"),
    ] {
        std::fs::write(&path, bytes).expect("written");
        let error = Imatrix::read(&path).expect_err("refused");
        assert!(error.to_string().contains(what) && error.hint().is_some(), "{error}");
    }
    let error = Imatrix::read(&folder.path().join("none")).expect_err("refused");
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// Writes the tiny model with this importance matrix, and gives the file.
fn quantized(imatrix: Imatrix, mix: &str, to: &Path) -> halfbyte::Result<Gguf> {
    let importance = Some(Importances { file: "some.gguf".into(), imatrix });
    let options = Options { importance, ..Options::new(Mix::by_name(mix)?) };
    write(&quantize::plan(&tiny(), &options)?, to)?;
    Gguf::open(to)
}

#[test]
fn files_say_with_what_they_were_quantized() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = quantized(some(), "Q4_0", &folder.path().join("out.gguf")).expect("quantized");
    let metadata = file.metadata();
    assert_eq!(metadata.str("quantize.imatrix.file").expect("a string"), "some.gguf");
    assert_eq!(metadata.str("quantize.imatrix.dataset").expect("a string"), "a.txt");
    assert_eq!(metadata.u32("quantize.imatrix.entries_count").expect("a count"), 2);
    assert_eq!(metadata.u32("quantize.imatrix.chunks_count").expect("a count"), 7);
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut other = some();
    other.entries.insert("blk.0.attn_k.weight".into(), Entry { sums: vec![1.0; 255], counts: vec![1.0] });
    let error = quantized(other, "Q4_0", &folder.path().join("out.gguf")).expect_err("refused");
    assert!(matches!(&error, Error::TensorShape { tensor, .. } if tensor.contains("blk.0.attn_k.weight")), "{error}");
}
