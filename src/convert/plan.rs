//! A file that is to be written, and how it is: rows are read, encoded by all threads and written, a chunk at a time.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use super::rows::{PackedRows, Rows};
use crate::error::{Error, Result};
use crate::gguf::{GgmlType, GgufWriter, Map, TensorStream, Value};
use crate::output::Output;
use crate::quant::{Format, SharedBytes};

/// Weights that are encoded before they are written. Two such chunks are in memory at a time.
const CHUNK: usize = 1 << 22;
/// Weights in a task of a thread, at least: some hundred microseconds of work.
const TASK: usize = 1 << 15;
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 24;

/// A GGUF file to be.
#[derive(Default)]
pub struct Plan {
    /// Keys and values, in the file's order.
    pub metadata: Vec<(String, Value)>,
    /// The tensors, in the file's order.
    pub tensors: Vec<Planned>,
    /// What the file will not say of the model that it is made of.
    pub notes: Vec<String>,
}

/// A tensor of a [`Plan`].
pub struct Planned {
    /// GGUF's name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// ggml's number of the type in which it will be stored.
    pub format_id: u32,
    /// The format that it was to be stored in, if its rows are no whole number of blocks of it.
    pub wanted: Option<&'static str>,
    pub(super) content: Content,
}

/// Where a tensor's bytes come from.
pub(super) enum Content {
    /// From a file, as they are.
    Copy { bytes: SharedBytes, map: Option<Map> },
    /// From blocks that are elsewhere.
    Packed(Box<dyn PackedRows>),
    /// From numbers.
    Encode { rows: Box<dyn Rows>, format: &'static Format, importance: Option<Importance> },
}

/// How much the columns of a tensor count, `[n_matrices, K]`; one matrix, or one for each expert.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Importance {
    pub(super) values: Vec<f32>,
    /// Rows of each matrix, M.
    pub(super) n_rows: usize,
}

impl Importance {
    /// That of the columns of `row`, `[K]`.
    fn of_row(&self, row: usize, row_len: usize) -> &[f32] {
        &self.values[row / self.n_rows * row_len..][..row_len]
    }
}

/// What [`Plan::write`] tells meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance<'a> {
    /// The tensor that is being written.
    pub tensor: &'a str,
    /// Bytes that were written.
    pub done_bytes: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
}

/// Is told how far it is, and says whether to go on.
pub type Progress<'a> = &'a mut (dyn FnMut(Advance<'_>) -> ControlFlow<()> + Send);

impl Planned {
    /// A tensor that is stored as it is in a file.
    pub(super) fn copy(name: &str, shape: &[usize], format_id: u32, bytes: SharedBytes, map: Option<Map>) -> Self {
        Self { name: name.into(), shape: shape.into(), format_id, wanted: None, content: Content::Copy { bytes, map } }
    }

    /// A tensor whose rows are stored as `format`, of which each is a whole number of blocks.
    pub(super) fn encode(
        name: &str,
        shape: &[usize],
        rows: Box<dyn Rows>,
        format: &'static Format,
        importance: Option<Importance>,
    ) -> Self {
        // What is in this format already does not go through numbers, which could only lose.
        let content = match rows.stored().filter(|stored| stored.weight.format == format) {
            Some(stored) => Content::Copy { bytes: stored.weight.bytes.clone(), map: stored.map.clone() },
            None => Content::Encode { rows, format, importance },
        };
        Self { name: name.into(), shape: shape.into(), format_id: format.id, wanted: None, content }
    }

    /// A tensor whose rows are packed already, as ggml's type `format_id`.
    pub(super) fn packed(name: &str, shape: &[usize], format_id: u32, rows: Box<dyn PackedRows>) -> Self {
        Self { name: name.into(), shape: shape.into(), format_id, wanted: None, content: Content::Packed(rows) }
    }

    /// The bytes of the tensor to be, whole: for programs that run what is not written yet.
    ///
    /// # Errors
    /// If a number is none, or beyond what the format can hold.
    pub(super) fn to_bytes(&self) -> Result<SharedBytes> {
        let mut bytes = Vec::new();
        match &self.content {
            Content::Copy { bytes, .. } => return Ok(bytes.clone()),
            Content::Packed(rows) => {
                bytes.resize(self.n_bytes(), 0);
                let row_bytes = self.n_bytes() / self.n_rows();
                bytes.par_chunks_mut(row_bytes).enumerate().for_each(|(row, out)| rows.read(row, out));
            }
            Content::Encode { rows, format, importance } => {
                let encoder = Encoder::new(self, &**rows, format, importance.as_ref());
                encoder.encode(0..self.n_rows(), &mut bytes)?;
            }
        }
        Ok(SharedBytes::new(std::sync::Arc::new(bytes)))
    }

    /// The sum of squared errors of `n_sampled` of its rows, spread over all, each with the importance of its column.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub(super) fn sampled_error(&self, n_sampled: usize) -> Result<f64> {
        let Content::Encode { rows, format, importance } = &self.content else { return Ok(0.0) };
        let encoder = Encoder::new(self, &**rows, format, importance.as_ref());
        let n_sampled = n_sampled.min(encoder.n_rows);
        let errors = (0..n_sampled).into_par_iter().map(|i| encoder.error(i * encoder.n_rows / n_sampled));
        errors.try_reduce(|| 0.0, |a, b| Ok(a + b))
    }

    /// Bytes that it will take.
    pub fn n_bytes(&self) -> usize {
        GgmlType::by_id(self.format_id)
            .and_then(|t| t.tensor_bytes(&self.shape).ok())
            .expect("tensors are planned in types and shapes that are possible")
    }

    /// Rows of all its matrices.
    fn n_rows(&self) -> usize {
        self.n_elements() / self.shape.last().copied().unwrap_or(1)
    }

    /// Numbers in it.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// ggml's name of the type in which it will be stored.
    pub fn format_name(&self) -> &'static str {
        GgmlType::by_id(self.format_id).map_or("?", |t| t.name)
    }
}

impl Plan {
    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.n_bytes() as u64).sum()
    }

    /// Numbers in all tensors.
    pub fn n_elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.n_elements() as u64).sum()
    }

    /// Writes the file `path`, which appears when it is complete. `inputs` are files that are read meanwhile.
    ///
    /// # Errors
    /// If the file is one of the inputs or cannot be written, a tensor holds what its format cannot store, or `progress` wants it to
    /// end. Then there is no file.
    pub fn write<'a>(
        &self,
        path: &Path,
        inputs: impl IntoIterator<Item = &'a Path>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let output = Output::new(path, inputs)?;
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.set(key, value.clone());
        }
        for tensor in &self.tensors {
            writer.tensor(&tensor.name, &tensor.shape, tensor.format_id);
        }
        let stream = writer.start(output.create()?, path)?;
        let mut sink = Sink { stream, done_bytes: 0, total_bytes: self.n_bytes(), progress };
        for tensor in &self.tensors {
            match &tensor.content {
                Content::Copy { bytes, map } => sink.copy(&tensor.name, bytes, map.as_ref())?,
                Content::Packed(rows) => {
                    sink.packed(tensor, &**rows)?;
                    rows.release();
                }
                Content::Encode { rows, format, importance } => {
                    sink.encode(tensor, &**rows, format, importance.as_ref())?;
                }
            }
        }
        let _open = sink.stream.finish()?;
        output.finish()
    }
}

/// Where tensors go, and who is told.
struct Sink<'a, W> {
    stream: TensorStream<W>,
    done_bytes: u64,
    total_bytes: u64,
    progress: Progress<'a>,
}

impl<W: Write + Send> Sink<'_, W> {
    fn advance(&mut self, tensor: &str, n_bytes: usize) -> Result<()> {
        self.done_bytes += n_bytes as u64;
        let advance = Advance { tensor, done_bytes: self.done_bytes, total_bytes: self.total_bytes };
        if (self.progress)(advance).is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn copy(&mut self, tensor: &str, bytes: &[u8], map: Option<&Map>) -> Result<()> {
        for piece in bytes.chunks(COPY_BYTES) {
            self.stream.write(piece)?;
            if let Some(map) = map {
                map.release(piece);
            }
            self.advance(tensor, piece.len())?;
        }
        Ok(())
    }

    fn packed(&mut self, tensor: &Planned, rows: &dyn PackedRows) -> Result<()> {
        let row_bytes = tensor.n_bytes() / tensor.n_rows();
        let chunk_len = (COPY_BYTES / row_bytes).max(1);
        let mut bytes = Vec::new();
        for start in (0..tensor.n_rows()).step_by(chunk_len) {
            bytes.resize(chunk_len.min(tensor.n_rows() - start) * row_bytes, 0);
            bytes.par_chunks_mut(row_bytes).enumerate().for_each(|(row, out)| rows.read(start + row, out));
            self.stream.write(&bytes)?;
            self.advance(&tensor.name, bytes.len())?;
        }
        Ok(())
    }

    /// While a chunk is written, the next one is encoded.
    fn encode(
        &mut self,
        tensor: &Planned,
        rows: &dyn Rows,
        format: &'static Format,
        importance: Option<&Importance>,
    ) -> Result<()> {
        let encoder = Encoder::new(tensor, rows, format, importance);
        let (n_rows, chunk_len) = (encoder.n_rows, (CHUNK / encoder.row_len).max(1));
        let (mut ready, mut next) = (Vec::new(), Vec::new());
        for start in (0..n_rows).step_by(chunk_len) {
            let stream = &mut self.stream;
            let (written, encoded) = rayon::join(
                || if ready.is_empty() { Ok(()) } else { stream.write(&ready) },
                || encoder.encode(start..(start + chunk_len).min(n_rows), &mut next),
            );
            written?;
            encoded?;
            self.advance(&tensor.name, ready.len())?;
            // Those that are read again come back from the file.
            rows.release();
            std::mem::swap(&mut ready, &mut next);
        }
        self.stream.write(&ready)?;
        self.advance(&tensor.name, ready.len())
    }
}

/// Turns rows of a tensor into blocks.
struct Encoder<'a> {
    tensor: &'a str,
    rows: &'a dyn Rows,
    n_rows: usize,
    row_len: usize,
    format: &'static Format,
    importance: Option<&'a Importance>,
}

impl<'a> Encoder<'a> {
    fn new(
        tensor: &'a Planned,
        rows: &'a dyn Rows,
        format: &'static Format,
        importance: Option<&'a Importance>,
    ) -> Self {
        let row_len = tensor.shape.last().copied().unwrap_or(1);
        Self { tensor: &tensor.name, rows, n_rows: tensor.n_elements() / row_len, row_len, format, importance }
    }

    /// The rows of `range` into `out`, which is made as long as they are.
    fn encode(&self, range: std::ops::Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let row_bytes = self.format.bytes(self.row_len);
        out.resize(range.len() * row_bytes, 0);
        let task_len = TASK.div_ceil(self.row_len);
        out.par_chunks_mut(task_len * row_bytes).enumerate().try_for_each_init(
            || vec![0.0; self.row_len],
            |numbers, (task, out)| {
                for (row, out) in (range.start + task * task_len..).zip(out.chunks_exact_mut(row_bytes)) {
                    self.rows.read(row, numbers);
                    self.check(numbers)?;
                    let importance = self.importance.map(|importance| importance.of_row(row, self.row_len));
                    quantize_row(self.format, numbers, importance, out);
                }
                Ok(())
            },
        )
    }

    /// The sum of squared errors of a row.
    fn error(&self, row: usize) -> Result<f64> {
        let (mut numbers, mut stored) = (vec![0.0; self.row_len], vec![0.0; self.row_len]);
        let mut bytes = vec![0; self.format.bytes(self.row_len)];
        self.rows.read(row, &mut numbers);
        self.check(&numbers)?;
        let importance = self.importance.map(|importance| importance.of_row(row, self.row_len));
        quantize_row(self.format, &numbers, importance, &mut bytes);
        (self.format.dequantize)(&bytes, &mut stored);
        let square = |i: usize| f64::from(numbers[i] - stored[i]).powi(2);
        let weight = |i: usize| importance.map_or(1.0, |importance| f64::from(importance[i]));
        Ok((0..self.row_len).map(|i| weight(i) * square(i)).sum())
    }

    /// Fails if a number is none, or beyond what the format can hold.
    fn check(&self, numbers: &[f32]) -> Result<()> {
        // Bits of magnitudes are ordered as magnitudes are, and those of infinities and NaNs come last.
        let largest = numbers.iter().fold(0, |largest: u32, number| largest.max(number.to_bits() & 0x7fff_ffff));
        if f32::from_bits(largest) <= largest_weight(self.format) {
            return Ok(());
        }
        Err(Error::Unrepresentable {
            tensor: self.tensor.into(),
            format: self.format.name,
            found: f32::from_bits(largest),
        })
    }
}

/// The largest magnitude that a weight may have.
fn largest_weight(format: &Format) -> f32 {
    match format.name {
        "F32" => f32::MAX,
        "BF16" => half::bf16::MAX.to_f32(),
        // Scales are in f16, too, and largest weights are at least a scale.
        _ => half::f16::MAX.to_f32(),
    }
}

/// Encodes a row; columns that count more are to be nearer to what they were.
fn quantize_row(format: &Format, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    (format.quantize)(row, importance, out);
}
