//! What a model is read from: a file, or one that is yet to be written and shall not be if it makes no model.

use crate::error::Result;
use crate::gguf::{Gguf, Metadata};
use crate::quant::Weight;

/// Metadata and tensors.
pub(crate) trait Source {
    /// Keys and values.
    fn metadata(&self) -> &Metadata;

    /// How many tensors there are.
    fn n_tensors(&self) -> usize;

    /// The shape of a tensor, outermost dimension first; `None` if there is none of this name.
    fn shape(&self, tensor: &str) -> Option<&[usize]>;

    /// A tensor with its numbers: graphs hold what small ones say (factors of rotary embeddings).
    ///
    /// # Errors
    /// If they are in a format that halfbyte does not compute with.
    fn weight(&self, tensor: &str) -> Result<Option<Weight>>;
}

impl Source for Gguf {
    fn metadata(&self) -> &Metadata {
        self.metadata()
    }

    fn n_tensors(&self) -> usize {
        self.tensors().len()
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensor(tensor).map(|tensor| &tensor.shape[..])
    }

    fn weight(&self, tensor: &str) -> Result<Option<Weight>> {
        self.weight(tensor)
    }
}
