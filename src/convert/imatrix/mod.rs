//! Importance matrices: how large the numbers are that each column of a matrix is multiplied with.
//!
//! The error of a weight counts as much as what it is multiplied with, squared. So an importance matrix has for each column of
//! each matrix the sum of the squares that went into it while a text was read, and their number. llama.cpp's files are read,
//! the older ones too, and written: <https://github.com/ggml-org/llama.cpp/blob/master/tools/imatrix/README.md>.

mod collect;
mod file;

use std::collections::BTreeMap;

pub use collect::{Collect, collect};

/// Importance of the columns of a model's matrices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Imatrix {
    /// By the name of the matrix.
    pub entries: BTreeMap<String, Entry>,
    /// The texts that were read.
    pub datasets: Vec<String>,
    /// Chunks of text that were read.
    pub n_chunks: u32,
    /// Tokens in a chunk; 0 if not known.
    pub chunk_len: u32,
}

/// Importance of the columns of one matrix, or of those of all experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Sums of squares, `[n_matrices, K]`.
    pub sums: Vec<f32>,
    /// How many rows went into the sums of each matrix, `[n_matrices]`.
    pub counts: Vec<f32>,
}

impl Entry {
    /// Mean squares, `[n_matrices, K]`; 1 for a matrix that no row went into.
    pub fn means(&self) -> Vec<f32> {
        let row_len = self.sums.len() / self.counts.len().max(1);
        let rows = self.sums.chunks(row_len.max(1)).zip(&self.counts);
        rows.flat_map(|(sums, &count)| sums.iter().map(move |sum| if count > 0.0 { sum / count } else { 1.0 }))
            .collect()
    }
}
