//! A published model, opened: what its GGUF file will say, and where the rows of its tensors come from.

use std::path::{Path, PathBuf};

use super::plan::{Plan, Planned};
use super::quantize::{self, Chosen, Mix, Options, Subject};
use super::rows::{Computed, PackedRows, Rows};
use super::{check, hf, meta};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::quant::{SharedBytes, Weight};

/// What to do where Meta's form says too little.
pub(super) const HUGGING_FACE: &str =
    "convert the folder of the same model in Hugging Face's form, with config.json, tokenizer.json and *.safetensors";

/// A note that layers with sliding windows will have none.
pub(super) fn lost_window(n_positions: u32) -> String {
    format!(
        "layers of this model see the last {n_positions} positions, but all of them in a GGUF file of its family: answers differ \
         beyond {n_positions} tokens"
    )
}

/// A tensor of the file to be.
pub(super) struct Made {
    /// GGUF's name.
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
    /// The format of its numbers where they are read.
    pub(super) from: &'static str,
}

/// Where a tensor comes from.
pub(super) enum Content {
    /// From numbers, which are stored as the mix says.
    Numbers(Box<dyn Rows>),
    /// From blocks that are as ggml's type with this number has them.
    Packed(u32, Box<dyn PackedRows>),
}

impl Made {
    /// A vector of numbers that no file has.
    pub(super) fn computed(name: &str, numbers: Vec<f32>) -> Self {
        Self {
            name: name.into(),
            shape: vec![numbers.len()],
            content: Content::Numbers(Box::new(Computed(numbers))),
            from: "F32",
        }
    }

    /// The tensor in F32, whole.
    ///
    /// # Errors
    /// If it is one of blocks.
    pub(super) fn weight(&self) -> Result<Weight> {
        let Content::Numbers(rows) = &self.content else {
            return Err(Error::UnsupportedFormat { tensor: self.name.clone(), format: "blocks".into() });
        };
        let mut numbers = vec![0.0_f32; self.shape.iter().product()];
        let row_len = self.shape.last().copied().unwrap_or(1).max(1);
        numbers.chunks_mut(row_len).enumerate().for_each(|(row, out)| rows.read(row, out));
        let bytes = SharedBytes::new(std::sync::Arc::new(bytemuck::cast_slice::<_, u8>(&numbers).to_vec()));
        Ok(Weight { shape: self.shape.clone(), format: quantize::format("F32")?, bytes })
    }
}

/// A published model.
pub(super) struct Model {
    /// GGUF's name of the architecture.
    pub(super) arch: &'static str,
    /// Keys of the architecture and of the vocabulary.
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<Made>,
    /// The files that the tensors are in.
    pub(super) files: Vec<PathBuf>,
    /// What its file cannot say.
    pub(super) notes: Vec<String>,
}

/// The GGUF file that a folder with a published model becomes, and the files that are read for it.
///
/// Matrices are stored as `mix` says; if it does not, in the 16-bit floats that nothing of the model is lost in.
///
/// # Errors
/// If the folder holds no model, one that is not known, or one that its file would not compute.
pub fn plan(folder: &Path, mix: Option<Mix>) -> Result<(Plan, Vec<PathBuf>)> {
    if !folder.is_dir() {
        return Err(Error::Source { path: folder.into(), what: "it is not a folder".into() });
    }
    // Mistral's folders have both, and their weights twice.
    let is_meta = folder.join("params.json").is_file() && !folder.join("config.json").is_file();
    let model = if is_meta { meta::open(folder)? } else { hf::open(folder)? };
    let mix = match mix {
        Some(mix) => mix,
        None => default_mix(&model)?,
    };
    let name = folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    let mut metadata: Vec<(String, Value)> = vec![
        ("general.architecture".into(), model.arch.into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), name.unwrap_or_else(|| model.arch.into()).as_str().into()),
    ];
    metadata.extend(model.metadata);
    metadata.extend(quantize::what_it_is(&mix));
    check::check(folder, &metadata, &model.tensors)?;
    let subjects: Vec<_> = model.tensors.iter().map(|t| Subject { name: &t.name, shape: &t.shape }).collect();
    let get = |key: &str| metadata.iter().find(|(other, _)| other == key).map(|(_, value)| value);
    let formats = quantize::formats(get, &subjects, &Options::new(mix))?;
    let mut tensors = Vec::with_capacity(model.tensors.len());
    for (tensor, chosen) in model.tensors.into_iter().zip(formats) {
        tensors.push(match tensor.content {
            // What is not quantized is small, and worth all its bits.
            Content::Numbers(rows) => {
                let format = chosen.map_or_else(|| quantize::format("F32"), |chosen| Ok(chosen.format))?;
                let planned = Planned::encode(&tensor.name, &tensor.shape, rows, format, None);
                Planned { wanted: chosen.and_then(Chosen::missed), ..planned }
            }
            Content::Packed(format_id, rows) => Planned::packed(&tensor.name, &tensor.shape, format_id, rows),
        });
    }
    Ok((Plan { metadata, tensors, notes: model.notes }, [model.files, descriptions(folder)].concat()))
}

/// Files of a model that hold no weights: its configuration, its vocabulary, and what else says how it is used.
fn descriptions(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let describes =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "json" || e == "model" || e == "jinja" || e == "txt");
    paths.filter(describes).collect()
}

/// BF16 where the model has that, since its numbers may be too large for F16.
fn default_mix(model: &Model) -> Result<Mix> {
    let is_brain = model.tensors.iter().any(|tensor| tensor.from == "BF16");
    Mix::by_name(if is_brain { "BF16" } else { "F16" })
}
