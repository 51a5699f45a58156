//! Writes GGUF files: first the plan (metadata, tensor names and shapes), then the bytes of the tensors as a stream.
//!
//! Sizes follow from shapes and types, so that the header can be written before any tensor is made, and no more than
//! one tensor need be in memory at a time.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::ggml_type::GgmlType;
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, VERSION};
use crate::error::{Error, Result};
use crate::file::InPieces;

/// The plan of a file.
#[derive(Debug)]
pub struct GgufWriter {
    entries: Vec<(String, Value)>,
    tensors: Vec<Planned>,
    alignment: usize,
}

#[derive(Debug)]
struct Planned {
    name: String,
    shape: Vec<usize>,
    format_id: u32,
    n_bytes: usize,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self { entries: Vec::new(), tensors: Vec::new(), alignment: DEFAULT_ALIGNMENT }
    }

    /// Sets a key, keeping its place if it was set before. `general.alignment` also takes effect.
    ///
    /// # Panics
    /// If the key is empty, or `general.alignment` is no `u32` that is a power of two.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        assert!(!key.is_empty(), "a metadata key has a name");
        let value = value.into();
        if key == "general.alignment" {
            let Value::U32(n) = value else { panic!("general.alignment is a u32, not {value}") };
            assert!(n.is_power_of_two(), "an alignment of {n} is no power of two");
            self.alignment = n as usize;
        }
        match self.entries.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.into(), value)),
        }
        self
    }

    /// Announces the next tensor; `shape` has the outermost dimension first, `format_id` is ggml's number of the type.
    ///
    /// # Panics
    /// If the type is unknown, the shape is not possible, or there is a tensor of that name.
    pub fn tensor(&mut self, name: &str, shape: &[usize], format_id: u32) -> &mut Self {
        assert!(!name.is_empty(), "a tensor has a name");
        assert!(shape.len() <= MAX_DIMS && !shape.contains(&0), "tensor {name}: shape {shape:?} is not possible");
        assert!(self.tensors.iter().all(|t| t.name != name), "two tensors are named {name}");
        let n_bytes = match GgmlType::by_id(format_id).map(|t| t.tensor_bytes(shape)) {
            Some(Ok(n_bytes)) => n_bytes,
            Some(Err(what)) => panic!("tensor {name}: {what}"),
            None => panic!("tensor {name}: unknown type {format_id}"),
        };
        self.tensors.push(Planned { name: name.into(), shape: shape.into(), format_id, n_bytes });
        self
    }

    /// Creates the file and writes all but the tensors' bytes.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub fn create(self, path: &Path) -> Result<TensorStream<impl Write + Send + use<>>> {
        let file = File::create(path).map_err(|source| Error::Io { action: "create", path: path.into(), source })?;
        self.start(InPieces::new(file, 0), path)
    }

    /// Writes all but the tensors' bytes to `out`; `name` is what error messages call it.
    ///
    /// # Errors
    /// If `out` does.
    pub fn start<W: Write>(self, out: W, name: &Path) -> Result<TensorStream<W>> {
        let mut header = self.header();
        let start = header.len().next_multiple_of(self.alignment);
        // Files without tensors end with the header, as those of other writers do.
        if !self.tensors.is_empty() {
            header.resize(start, 0);
        }
        let sizes: Vec<usize> = self.tensors.iter().map(|t| t.n_bytes).collect();
        let left = sizes.first().copied().unwrap_or(0);
        let mut stream = TensorStream { out, path: name.into(), alignment: self.alignment, sizes, current: 0, left };
        stream.put(&header)?;
        Ok(stream)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            put_str(&mut out, key);
            out.extend((value.value_type() as u32).to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_str(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend(tensor.format_id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.n_bytes.next_multiple_of(self.alignment);
        }
        out
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Takes the bytes of the announced tensors, in order.
#[derive(Debug)]
#[must_use = "a file is complete after `finish`"]
pub struct TensorStream<W> {
    out: W,
    path: PathBuf,
    alignment: usize,
    sizes: Vec<usize>,
    /// The tensor that bytes are for, and how many it still takes.
    current: usize,
    left: usize,
}

impl<W: Write> TensorStream<W> {
    /// The next bytes of the current tensor: all, or a piece. After its last byte comes the next tensor.
    ///
    /// # Errors
    /// If the bytes cannot be written.
    ///
    /// # Panics
    /// If these are more bytes than the tensor has left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.left, "tensor {}: {} bytes, but {} are left", self.current, bytes.len(), self.left);
        self.put(bytes)?;
        self.left -= bytes.len();
        if self.left == 0 && self.current < self.sizes.len() {
            let n_bytes = self.sizes[self.current];
            let padding = n_bytes.next_multiple_of(self.alignment) - n_bytes;
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding as u64), &mut self.out)
                .map_err(|source| self.fault(source))?;
            self.current += 1;
            self.left = self.sizes.get(self.current).copied().unwrap_or(0);
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If the last bytes cannot be written.
    ///
    /// # Panics
    /// If bytes of tensors are missing.
    pub fn finish(mut self) -> Result<W> {
        assert!(self.current == self.sizes.len(), "{} of {} tensors were written", self.current, self.sizes.len());
        self.out.flush().map_err(|source| self.fault(source))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| self.fault(source))
    }

    fn fault(&self, source: std::io::Error) -> Error {
        Error::Io { action: "write", path: self.path.clone(), source }
    }
}
