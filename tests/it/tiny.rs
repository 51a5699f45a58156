//! Tiny models with random weights, made when they are needed: `tests/golden/tiny/models.json` has their keys and shapes.
//!
//! Their numbers are made of integers by operations that every processor rounds alike, so that a file has the same bytes
//! everywhere: those that llama.cpp has computed logits with. The checksum beside these logits says whether it has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use halfbyte::gguf::{Gguf, GgufWriter, Value};
use halfbyte::quant::{self, Format};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::common::{Random, golden};
use crate::golden;

/// One that has a file of its own, with everybody's vocabulary.
const STORED: &str = "llama-f32";

/// Files of one model in several formats.
#[derive(Deserialize)]
struct Tiny {
    name: String,
    architecture: String,
    /// Format of the matrices, and `general.file_type`, which files without quantized tensors do not have.
    files: BTreeMap<String, (String, u32)>,
    /// The file that has its numbers, if they are not random.
    numbers: Option<String>,
    /// How many times as large as usual the numbers are in tensors whose names contain this.
    #[serde(default)]
    sizes: BTreeMap<String, f32>,
    /// Without the architecture's prefix.
    keys: Map<String, Json>,
    /// Shapes by name; then those of a layer.
    tensors: Map<String, Json>,
    layer: Map<String, Json>,
}

/// The data of a tiny model, as far as they are about its file.
#[derive(Deserialize)]
struct Data {
    crc32: u32,
}

/// The file of a tiny model, for the first time or from the last time.
pub(crate) fn file(name: &str) -> PathBuf {
    let path = |crc32: u32| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tiny-{crc32:08x}"));
        folder.join(format!("{name}.gguf"))
    };
    let data: Data = golden::read(&format!("tiny/{name}.json"));
    if path(data.crc32).exists() {
        return path(data.crc32);
    }
    let bytes = make(name);
    let crc32 = checksum(&bytes);
    let folder = path(crc32).parent().expect("it has a folder").to_owned();
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    // Other tests may make it at the same time.
    let temporary = tempfile::NamedTempFile::new_in(&folder).expect("the folder is ours");
    std::fs::write(temporary.path(), bytes).expect("the folder is ours");
    temporary.persist(path(crc32)).expect("the folder is ours");
    assert!(
        crc32 == data.crc32,
        "{} has the checksum {crc32}, and {name}.json is about {}: see tests/golden/README.md",
        path(crc32).display(),
        data.crc32
    );
    path(crc32)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The bytes of a file.
fn make(file: &str) -> Vec<u8> {
    let models: Vec<Tiny> = golden::read("tiny/models.json");
    let model = models.iter().find(|model| model.files.contains_key(file));
    let model = model.unwrap_or_else(|| panic!("tests/golden/tiny/models.json has no {file}"));
    let (format, file_type) = &model.files[file];
    let format = quant::by_name(format).unwrap_or_else(|| panic!("{file}: no format {format}"));
    let tensors: Vec<_> = model.tensors().collect();

    let mut writer = model.metadata();
    if *file_type != 0 {
        writer.set("general.quantization_version", 2_u32).set("general.file_type", *file_type);
    }
    let format_of = |name: &str, shape: &[usize]| {
        let is_small = shape.len() == 1 || name.ends_with(".bias") || name.ends_with("ffn_gate_inp.weight");
        if is_small { quant::by_name("F32").expect("it is one") } else { format }
    };
    for (name, shape) in &tensors {
        writer.tensor(name, shape, format_of(name, shape).id);
    }
    let mut stream = writer.start(Vec::new(), Path::new(file)).expect("memory can be written");
    for (name, shape) in &tensors {
        let mut random = Random::new(checksum(format!("{file}/{name}").as_bytes()).into());
        let format = format_of(name, shape);
        let bytes = match format.name {
            "F32" | "F16" | "BF16" | "Q8_0" => encode(format, model.numbers(name, shape, &mut random)),
            _ => blocks(format, shape.iter().product(), model.size(name, shape), &mut random),
        };
        stream.write(&bytes).expect("memory can be written");
    }
    stream.finish().expect("memory can be written")
}

impl Tiny {
    fn metadata(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", &self.architecture[..]).set("general.name", &self.name[..]);
        for (key, value) in &self.keys {
            let value = match value {
                Json::Bool(value) => Value::from(*value),
                Json::String(value) => Value::from(&value[..]),
                Json::Number(value) => match value.as_u64() {
                    Some(value) => Value::from(value as u32),
                    None => Value::from(value.as_f64().expect("a number is a float") as f32),
                },
                other => panic!("{}: {key} is {other}", self.name),
            };
            writer.set(&format!("{}.{key}", self.architecture), value);
        }
        let vocabulary = stored(STORED);
        for (key, value) in vocabulary.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
            writer.set(key, value.clone());
        }
        writer
    }

    /// Names and shapes.
    fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let n_layer = self.keys["block_count"].as_u64().expect("a number of layers");
        let of_layer = move |il: u64| self.layer.iter().map(move |(name, shape)| (format!("blk.{il}.{name}"), shape));
        let all = self.tensors.iter().map(|(name, shape)| (name.clone(), shape)).chain((0..n_layer).flat_map(of_layer));
        all.map(|(name, shape)| (name, Vec::deserialize(shape).expect("a shape")))
    }

    /// The numbers of a tensor, before they are rounded to a format.
    fn numbers(&self, name: &str, shape: &[usize], random: &mut Random) -> Vec<f32> {
        if let Some(file) = &self.numbers {
            return stored(file).weight(name).expect("a known format").expect("the same tensors").to_f32();
        }
        let n = shape.iter().product();
        // Divisors of frequencies.
        let largest = [("rope_freqs", 8.0_f32), ("rope_factors_short", 1.5), ("rope_factors_long", 20.0)];
        if let Some((_, largest)) = largest.into_iter().find(|(start, _)| name.starts_with(start)) {
            return (0..n).map(|i| 1.0 + (largest - 1.0) * i as f32 / (n - 1) as f32).collect();
        }
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        (0..n).map(|_| mean + self.size(name, shape) * bell(random)).collect()
    }

    /// The standard deviation of a tensor's numbers: what layers add to a row shall be as large as the row.
    fn size(&self, name: &str, shape: &[usize]) -> f32 {
        if name.ends_with(".bias") || name.ends_with("norm.weight") {
            return 0.3;
        }
        if name.ends_with("attn_sinks.weight") {
            return 1.0;
        }
        let usual = [
            ("token_embd", 1.5),
            ("attn_q", 2.0),
            ("attn_k", 2.0),
            ("output", 2.5),
            ("ffn_down", 5.0),
            ("ffn_gate_inp", 5.0),
        ];
        let size = usual.into_iter().find(|(part, _)| name.contains(part)).map_or(1.0, |(_, size)| size);
        let times = self.sizes.iter().find(|(part, _)| name.contains(&part[..])).map_or(1.0, |(_, times)| *times);
        size * times / (shape[shape.len() - 1] as f32).sqrt()
    }
}

fn stored(name: &str) -> Gguf {
    Gguf::open(&golden(&format!("tiny/{name}.gguf"))).expect("golden data")
}

/// As good as normally distributed, mean 0, variance 1: the sum of four numbers of 16 bits.
fn bell(random: &mut Random) -> f32 {
    let parts = random.next().to_le_bytes();
    let sum: i32 = parts.as_chunks::<2>().0.iter().map(|&part| i32::from(u16::from_le_bytes(part))).sum();
    (sum - 2 * 65_535) as f32 / 37_837.0
}

/// Numbers in a format that has but one way to round them.
fn encode(format: &Format, numbers: Vec<f32>) -> Vec<u8> {
    match format.name {
        "F32" => numbers.into_iter().flat_map(f32::to_le_bytes).collect(),
        "F16" => numbers.into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        "BF16" => numbers.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        "Q8_0" => numbers.as_chunks().0.iter().flat_map(q8_0).collect(),
        other => panic!("one way to round to {other}"),
    }
}

fn q8_0(x: &[f32; 32]) -> Vec<u8> {
    let scale = x.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
    let per_unit = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let quants = x.map(|x| (x * per_unit).round() as i8 as u8);
    [&f16::from_f32(scale).to_le_bytes()[..], &quants].concat()
}

/// Blocks of any bits but those of their halves, of about this standard deviation.
fn blocks(format: &Format, n: usize, size: f32, random: &mut Random) -> Vec<u8> {
    // Where the halves are, and what they are in a block of standard deviation 1.
    let halves: &[(usize, f32)] = match format.name {
        "Q4_1" => &[(0, 0.217), (2, -1.63)],
        "Q5_0" => &[(0, 0.108)],
        "Q5_1" => &[(0, 0.108), (2, -1.68)],
        "Q2_K" => &[(80, 0.072), (82, 0.108)],
        "Q3_K" => &[(108, 0.023)],
        "Q4_K" => &[(0, 0.0039), (2, 0.029)],
        "Q5_K" => &[(0, 0.0019), (2, 0.0294)],
        "Q6_K" => &[(208, 0.00073)],
        "IQ4_NL" => &[(0, 0.0152)],
        "IQ4_XS" => &[(0, 0.00082)],
        "MXFP4" => &[],
        other => panic!("blocks of {other}"),
    };
    let mut bytes = random.bytes(format.bytes(n));
    for block in bytes.chunks_exact_mut(format.block_bytes) {
        let factor = size * (0.75 + 0.5 * random.unit()) * if random.next() & 1 == 0 { 1.0 } else { -1.0 };
        for &(at, half) in halves {
            block[at..at + 2].copy_from_slice(&f16::from_f32(factor * half).to_le_bytes());
        }
        if format.name == "MXFP4" {
            // The exponent of a third of it.
            block[0] = ((factor.abs() / 3.0).to_bits() >> 23) as u8;
        }
    }
    bytes
}
