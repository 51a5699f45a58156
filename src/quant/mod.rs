//! Quantized formats: how weights lie in a file, what numbers they are, and how they are packed for a GPU.
//!
//! One file per format, one row in [`ALL`]. The rest of the program never names a format: it asks a [`Format`]
//! for its sizes and calls its functions. What ggml calls a *type*, this module calls a *format*.

mod affine;
pub mod block;
pub mod float;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod k_scales;
pub mod mxfp4;
mod planes;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
mod round;
mod search;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Everything the program knows about one way to store numbers. Compared by [`Format::id`].
pub struct Format {
    /// ggml's number of the type, as GGUF files have it.
    pub id: u32,
    /// ggml's name: `Q4_K`, `F16`, …
    pub name: &'static str,
    /// Weights in a block.
    pub block_len: usize,
    /// Bytes of a block in the file.
    pub block_bytes: usize,
    /// Exact dequantization: `src` holds whole blocks, `dst` is `block_len` times as long as there are blocks.
    pub dequantize: fn(src: &[u8], dst: &mut [f32]),
    /// The inverse of `dequantize` up to rounding.
    pub quantize: Quantize,
    /// The planes into which the GPU splits a block, in the order of their bindings.
    pub planes: &'static [Plane],
    /// Splits whole blocks into one buffer per plane; `planes[i]` takes `planes[i].block_bytes` a block.
    pub pack: fn(src: &[u8], planes: &mut [&mut [u8]]),
    /// The WGSL module with the functions of this format (`shaders/quant/<format>.wgsl`).
    pub shader: &'static str,
}

/// How a format is made of numbers: `src` and `dst` as for [`Format::dequantize`].
///
/// `importance` says how much an error counts, squared: one finite number that is not negative for each column, the mean
/// square of what the column is multiplied with. `src` is whole rows then. Without it all columns count alike.
pub type Quantize = fn(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]);

/// One array of a packed tensor on the GPU, bound on its own.
///
/// Blocks follow one another without gaps, row after row, so that block `b` of a tensor starts at byte
/// `b * block_bytes` of each plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Name of the binding in WGSL.
    pub name: &'static str,
    /// Bytes that a block has in this plane.
    pub block_bytes: usize,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every supported format.
pub static ALL: &[&Format] = &[
    &float::F32,
    &float::F16,
    &float::BF16,
    &q4_0::FORMAT,
    &q4_1::FORMAT,
    &q5_0::FORMAT,
    &q5_1::FORMAT,
    &q8_0::FORMAT,
    &q2_k::FORMAT,
    &q3_k::FORMAT,
    &q4_k::FORMAT,
    &q5_k::FORMAT,
    &q6_k::FORMAT,
    &iq4_nl::FORMAT,
    &iq4_xs::FORMAT,
    &mxfp4::FORMAT,
];

/// The format with ggml's number `id`.
pub fn by_id(id: u32) -> Option<&'static Format> {
    ALL.iter().copied().find(|f| f.id == id)
}

/// The format with this name, whatever the case of its letters.
pub fn by_name(name: &str) -> Option<&'static Format> {
    ALL.iter().copied().find(|f| f.name.eq_ignore_ascii_case(name))
}

impl Format {
    /// Bytes of `n` weights; `n` is a whole number of blocks.
    pub fn bytes(&self, n: usize) -> usize {
        n / self.block_len * self.block_bytes
    }
}

/// A piece of a file (or of any memory) that keeps the whole alive: cheap to clone, cheap to slice.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*owner).as_ref().len();
        Self { owner, range }
    }

    /// A part of these bytes.
    ///
    /// # Panics
    /// If `range` does not lie within.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        Self { owner: self.owner.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }
}

impl std::ops::Deref for SharedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Where a back end gets the weights of a graph from.
pub trait Weights {
    /// The tensor with this GGUF name, whole.
    fn weight(&self, name: &str) -> Option<Weight>;
}

/// A weight as the file has it: shape, format and untouched bytes.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Outermost dimension first: `[M, K]` for a matrix, `[N]` for a vector.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub format: &'static Format,
    /// Whole rows, `shape` product weights.
    pub bytes: SharedBytes,
}

impl Weight {
    /// Length of a row: the innermost dimension, K.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all other dimensions, M.
    pub fn n_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.format.bytes(self.row_len())
    }

    /// The rows of `range` as a weight of their own (shape `[range.len(), K]`).
    ///
    /// # Panics
    /// If `range` does not lie within the rows.
    pub fn rows(&self, range: Range<usize>) -> Weight {
        assert!(range.end <= self.n_rows(), "rows {range:?} of {}", self.n_rows());
        let row_bytes = self.row_bytes();
        Weight {
            shape: vec![range.len(), self.row_len()],
            format: self.format,
            bytes: self.bytes.slice(range.start * row_bytes..range.end * row_bytes),
        }
    }

    /// All numbers, dequantized.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        (self.format.dequantize)(&self.bytes, &mut out);
        out
    }
}
