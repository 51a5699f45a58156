//! The tensors of a published model, by the names that its files give them: where each lies, unread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::rows::Stored;
use crate::error::{Error, Result};
use crate::gguf::{MAX_DIMS, Map};
use crate::quant::{self, Format, SharedBytes, Weight};

/// A tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// How its numbers are stored; `None` for bytes that are no numbers by themselves.
    pub(super) format: Option<&'static Format>,
    pub(super) bytes: SharedBytes,
    pub(super) map: Map,
}

impl Tensor {
    /// Its rows, for a tensor of numbers called `name`.
    ///
    /// # Errors
    /// If its numbers are of a kind that is not read, or its shape is none that GGUF files have.
    pub(super) fn rows(&self, name: &str) -> Result<Stored> {
        if self.shape.is_empty() || self.shape.len() > MAX_DIMS || self.shape.contains(&0) {
            return Err(Error::TensorShape { tensor: name.into(), expected: vec![1, 1], found: self.shape.clone() });
        }
        let Some(format) = self.format else {
            return Err(Error::UnsupportedFormat { tensor: name.into(), format: "bytes or integers".into() });
        };
        let weight = Weight { shape: self.shape.clone(), format, bytes: self.bytes.clone() };
        Ok(Stored { weight, map: Some(self.map.clone()) })
    }
}

/// Tensors of one or several files.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    by_name: HashMap<String, Tensor>,
    /// The files that they are in.
    pub(super) files: Vec<PathBuf>,
}

impl Tensors {
    /// Adds those of a safetensors file.
    ///
    /// # Errors
    /// If the file is none, or has a tensor that another file has, too.
    pub(super) fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        let map = Map::open(path)?;
        let bytes = map.bytes();
        let fault = |what: String| Error::Source { path: path.into(), what };
        let (header_len, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| fault(format!("not a safetensors file: {error}")))?;
        // Behind the header and its length.
        let start = header_len + 8;
        for (name, info) in header.tensors() {
            let (from, to) = info.data_offsets;
            if bytes.len() - start < to {
                return Err(fault(format!("it is cut off within tensor `{name}`")));
            }
            let format = match info.dtype {
                Dtype::F32 => quant::by_name("F32"),
                Dtype::F16 => quant::by_name("F16"),
                Dtype::BF16 => quant::by_name("BF16"),
                _ => None,
            };
            let bytes = bytes.slice(start + from..start + to);
            let tensor = Tensor { shape: info.shape.clone(), format, bytes, map: map.clone() };
            self.add(path, name, tensor)?;
        }
        self.files.push(path.into());
        Ok(())
    }

    /// Adds one of the file `path`.
    ///
    /// # Errors
    /// If there is one of that name.
    pub(super) fn add(&mut self, path: &Path, name: String, tensor: Tensor) -> Result<()> {
        match self.by_name.insert(name, tensor) {
            None => Ok(()),
            Some(_) => {
                Err(Error::Source { path: path.into(), what: "it has a tensor that another file has, too".into() })
            }
        }
    }

    /// The names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The tensor with this name.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }
}
