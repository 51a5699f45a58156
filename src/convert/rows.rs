//! Where the numbers of a tensor come from: rows of f32, read when they are needed, in any order and by any thread.

use crate::gguf::Map;
use crate::quant::Weight;

/// A tensor as rows of K numbers.
pub(crate) trait Rows: Send + Sync {
    /// Row `row` into `out`, which has room for K numbers.
    fn read(&self, row: usize, out: &mut [f32]);

    /// The tensor of a file, where rows are read from one as they are.
    fn stored(&self) -> Option<&Stored> {
        None
    }

    /// Says that no row will be read again soon.
    fn release(&self);
}

/// A tensor of a file.
pub(crate) struct Stored {
    pub(crate) weight: Weight,
    /// The map that it lies in, if it does.
    pub(crate) map: Option<Map>,
}

impl Rows for Stored {
    fn read(&self, row: usize, out: &mut [f32]) {
        let row_bytes = self.weight.row_bytes();
        (self.weight.format.dequantize)(&self.weight.bytes[row * row_bytes..][..row_bytes], out);
    }

    fn stored(&self) -> Option<&Stored> {
        Some(self)
    }

    fn release(&self) {
        if let Some(map) = &self.map {
            map.release(&self.weight.bytes);
        }
    }
}
