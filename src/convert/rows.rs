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

/// A tensor that is packed already: rows of blocks, as the file to be has them.
pub(crate) trait PackedRows: Send + Sync {
    /// Row `row` into `out`, which has room for its blocks.
    fn read(&self, row: usize, out: &mut [u8]);

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

/// Rows of another tensor, in another order.
pub(crate) struct Picked<R> {
    pub(crate) rows: R,
    /// Which row of `rows` row i is.
    pub(crate) of: Box<dyn Fn(usize) -> usize + Send + Sync>,
}

impl<R: Rows> Rows for Picked<R> {
    fn read(&self, row: usize, out: &mut [f32]) {
        self.rows.read((self.of)(row), out);
    }

    fn release(&self) {
        self.rows.release();
    }
}

/// Matrices `[E, N, M]` of a file as `[E, M, N]`: rows are columns there.
pub(crate) struct Transposed {
    /// In a format of single numbers.
    pub(crate) stored: Stored,
    /// N and M
    pub(crate) dims: [usize; 2],
}

impl Rows for Transposed {
    fn read(&self, row: usize, out: &mut [f32]) {
        let [n, m] = self.dims;
        let (matrix, column) = (row / m, row % m);
        let Weight { format, bytes, .. } = &self.stored.weight;
        for (i, out) in out.iter_mut().enumerate() {
            let at = format.bytes((matrix * n + i) * m + column);
            (format.dequantize)(&bytes[at..][..format.block_bytes], std::slice::from_mut(out));
        }
    }

    fn release(&self) {
        self.stored.release();
    }
}

/// A vector, which is one row, with its numbers in another order.
pub(crate) struct Reordered<R> {
    pub(crate) rows: R,
    /// Which number of the vector number i is.
    pub(crate) of: Box<dyn Fn(usize) -> usize + Send + Sync>,
    /// How many the vector has.
    pub(crate) len: usize,
}

impl<R: Rows> Rows for Reordered<R> {
    fn read(&self, row: usize, out: &mut [f32]) {
        let mut numbers = vec![0.0; self.len];
        self.rows.read(row, &mut numbers);
        for (i, out) in out.iter_mut().enumerate() {
            *out = numbers[(self.of)(i)];
        }
    }

    fn release(&self) {
        self.rows.release();
    }
}

/// Numbers with `by` added.
pub(crate) struct Shifted<R> {
    pub(crate) rows: R,
    pub(crate) by: f32,
}

impl<R: Rows> Rows for Shifted<R> {
    fn read(&self, row: usize, out: &mut [f32]) {
        self.rows.read(row, out);
        out.iter_mut().for_each(|number| *number += self.by);
    }

    fn release(&self) {
        self.rows.release();
    }
}

/// Tensors of equal shape, one below the other.
pub(crate) struct Stacked<R> {
    pub(crate) parts: Vec<R>,
    /// Rows of each of them.
    pub(crate) n_rows: usize,
}

impl<R: Rows> Rows for Stacked<R> {
    fn read(&self, row: usize, out: &mut [f32]) {
        self.parts[row / self.n_rows].read(row % self.n_rows, out);
    }

    fn release(&self) {
        self.parts.iter().for_each(Rows::release);
    }
}

/// Tensors of equal shape, side by side.
pub(crate) struct SideBySide<R> {
    pub(crate) parts: Vec<R>,
    /// Columns of each of them.
    pub(crate) n_columns: usize,
}

impl<R: Rows> Rows for SideBySide<R> {
    fn read(&self, row: usize, out: &mut [f32]) {
        for (part, out) in self.parts.iter().zip(out.chunks_exact_mut(self.n_columns)) {
            part.read(row, out);
        }
    }

    fn release(&self) {
        self.parts.iter().for_each(Rows::release);
    }
}

/// Numbers that are computed rather than read: one row of them.
pub(crate) struct Computed(pub(crate) Vec<f32>);

impl Rows for Computed {
    fn read(&self, _row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.0);
    }

    fn release(&self) {}
}

impl Rows for Box<dyn Rows> {
    fn read(&self, row: usize, out: &mut [f32]) {
        (**self).read(row, out);
    }

    fn stored(&self) -> Option<&Stored> {
        (**self).stored()
    }

    fn release(&self) {
        (**self).release();
    }
}
