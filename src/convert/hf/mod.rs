//! Folders as Hugging Face has them: config.json, safetensors, and a vocabulary.

mod factors;
mod family;
mod gpt_oss;
mod keys;
mod mxfp4;
mod names;
mod patterns;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value as Json;

use super::json::Object;
use super::source::{Made, Model};
use super::tensors::Tensors;
use super::vocab;
use crate::error::{Error, Result};
use family::Family;
use keys::Keys;
use names::Layout;

/// The classes of models that folders are converted of, as `architectures` of config.json names them.
pub fn classes() -> Vec<&'static str> {
    Family::classes()
}

/// What a folder holds.
///
/// # Errors
/// If it is no model, or one of a family that is not known.
pub(super) fn open(folder: &Path) -> Result<Model> {
    let path = folder.join("config.json");
    let fault = |what: &str| Error::Source { path: folder.into(), what: what.into() };
    let config = Object::open(&path)?.ok_or_else(|| fault("it has no config.json"))?.with_inner("text_config");
    let family = family(&config)?;
    let config = config.with_defaults(family.defaults);
    let tensors = tensors(folder)?;
    let layout = Layout::new(family, &config)?;
    let mut made = layout.tensors(&tensors)?;
    let table = made.iter().find(|tensor| tensor.name == "token_embd.weight");
    let n_vocab =
        table.and_then(|table| table.shape.first().copied()).ok_or_else(|| fault("it has no embedding table"))?;
    if config.opt_count("vocab_size")?.is_some_and(|n| n as usize != n_vocab) {
        return Err(config.bad("vocab_size", &format!("the {n_vocab} rows of the embedding table")));
    }
    // What is said layer by layer is looked at before the loader counts layers.
    if config.count("num_hidden_layers")? as usize > made.len() {
        return Err(config.bad("num_hidden_layers", &format!("no more layers than the {} tensors", made.len())));
    }

    let mut keys = Keys::new(family.arch);
    config.known_str(&["hidden_activation", "hidden_act"], family.activations)?;
    (family.keys)(&config, &mut keys)?;
    made.extend(factors::tensors(&config, &mut keys)?.into_iter().map(|(name, factors)| Made::computed(name, factors)));
    let Keys { entries: mut metadata, notes, .. } = keys;
    metadata.extend(vocab::of_folder(folder, &config, n_vocab)?);
    Ok(Model { arch: family.arch, metadata, tensors: made, files: tensors.files, notes })
}

fn family(config: &Object) -> Result<&'static Family> {
    let classes = config.opt_array("architectures")?.unwrap_or_default();
    if classes.is_empty() {
        return Err(config.bad("architectures", "the name of the model's class"));
    }
    let mut families = classes.iter().filter_map(Json::as_str).filter_map(Family::by_class);
    families.next().ok_or_else(|| Error::UnsupportedArchitecture {
        found: classes.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", "),
        known: Family::classes(),
    })
}

/// The tensors of all files of a folder.
fn tensors(folder: &Path) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    let index_path = folder.join("model.safetensors.index.json");
    let Some(index) = Object::open(&index_path)? else {
        if !folder.join("model.safetensors").is_file() {
            let pickles =
                folder.join("pytorch_model.bin").is_file() || folder.join("pytorch_model.bin.index.json").is_file();
            let only = if pickles { ", only pickles (pytorch_model.bin), which are not read in this form" } else { "" };
            let what = format!("it has no model.safetensors{only}");
            return Err(Error::Source { path: folder.into(), what });
        }
        tensors.add_safetensors(&folder.join("model.safetensors"))?;
        return Ok(tensors);
    };
    let map = index.opt_object("weight_map")?.ok_or_else(|| index.bad("weight_map", "an object"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map.iter() {
        // A name may not lead elsewhere.
        let plain = |file: &&str| Path::new(file).file_name().is_some_and(|name| name == *file);
        files.insert(file.as_str().filter(plain).ok_or_else(|| map.bad(tensor, "the name of a file"))?);
    }
    for file in files {
        tensors.add_safetensors(&folder.join(file))?;
    }
    match map.iter().find(|(tensor, _)| tensors.get(tensor).is_none()) {
        Some((tensor, file)) => {
            Err(Error::Source { path: index_path, what: format!("tensor `{tensor}` is not in {file}") })
        }
        None => Ok(tensors),
    }
}
