//! Whether what is to be written makes a model. The loader is asked, with metadata and shapes, before a byte is written: a file that
//! nothing can load, or that runs as another model, is worse than none.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::source::Made;
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};
use crate::model::{self, Source};
use crate::quant::Weight;

/// What begins the names of factors of rotary embeddings: graphs hold their numbers, and which of them they hold is the context's
/// length to say.
const ROPE: &str = "rope_f";

const HINT: &str = "settings and weights are not of one model, or a part is missing: fetch the folder again";

/// A file as the loader would see it.
struct Outline<'a> {
    metadata: Metadata,
    tensors: HashMap<&'a str, &'a Made>,
}

impl<'a> Outline<'a> {
    /// The name of a key or a tensor that there are two of is the error.
    fn new(metadata: &[(String, Value)], tensors: &'a [Made]) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        for tensor in tensors {
            if by_name.insert(&*tensor.name, tensor).is_some() {
                return Err(format!("two of its tensors would be `{}`", tensor.name));
            }
        }
        Ok(Self { metadata: Metadata::new(metadata.to_vec())?, tensors: by_name })
    }
}

impl Source for Outline<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|tensor| &tensor.shape[..])
    }

    fn weight(&self, tensor: &str) -> Result<Option<Weight>> {
        self.tensors.get(tensor).map(|tensor| tensor.weight()).transpose()
    }
}

/// Whether a file of `folder` with these metadata and tensors can be loaded, with nothing left over.
///
/// # Errors
/// That of the loader, or one that names a tensor which it would not look at.
pub(super) fn check(folder: &Path, metadata: &[(String, Value)], tensors: &[Made]) -> Result<()> {
    let fault = |what| Error::Unconvertible { path: folder.into(), what, hint: HINT.into() };
    let outline = Outline::new(metadata, tensors).map_err(fault)?;
    let (_, graph) = model::describe(&outline, None)
        .map_err(|error| fault(format!("its settings and weights do not make a model: {error}")))?;
    let taken: HashSet<&str> = graph.ops.iter().flat_map(|op| op.weights()).map(|weight| &*weight.name).collect();
    let mut left = tensors.iter().map(|t| &*t.name).filter(|name| !taken.contains(name) && !name.starts_with(ROPE));
    match (left.next(), left.count()) {
        (None, _) => Ok(()),
        (Some(name), 0) => Err(fault(format!("a model with its settings has no tensor `{name}`"))),
        (Some(name), n) => {
            Err(fault(format!("a model with its settings has no tensor `{name}`, nor {n} more of its weights")))
        }
    }
}
