//! Rows of activations in 16 bits: what block formats are multiplied with.
//!
//! Each [`CHUNK`] numbers of a row share a scale, so that an outlier costs its own chunk its small digits and no other.
//! The root mean square of what rounding adds is at most 1/113,000 of the chunk's largest number.

use super::scales::BlockScales;

/// Weights in a block, as the kernels see them: each format is made of such blocks, or of multiples.
pub(crate) const BLOCK: usize = 32;
/// Numbers that share a scale.
pub(crate) const CHUNK: usize = 256;
/// Blocks in a chunk.
pub(crate) const CHUNK_BLOCKS: usize = CHUNK / BLOCK;

/// Lines of digits for each chunk of a row alone: eight for each order that the kernels of AVX-512 have.
const DIGIT_LINES: usize = if cfg!(target_arch = "x86_64") { 4 * CHUNK_BLOCKS } else { 0 };

/// A cache line of 16-bit numbers: a block.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [i16; BLOCK]);

/// The largest integer that a number becomes: 256 · 127 + 127, both of whose bytes are signed.
const MAX: f32 = 32_639.0;
/// Below this a chunk counts as zeros: its reciprocal would not be finite.
const TINY: f32 = 1e-30;

/// The scale of a chunk whose largest magnitude is `max`, and its reciprocal, or 0 for zeros.
#[inline(always)]
pub(super) fn scale_of(max: f32) -> (f32, f32) {
    // A chunk with NaN or infinity makes all that it touches NaN.
    let scale = if max.is_finite() { max / MAX } else { f32::NAN };
    (scale, if max > TINY { MAX / max } else { 0.0 })
}

/// T rows of K numbers, K whole blocks.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    n_rows: usize,
    n_blocks: usize,
    /// A bit for each order of digits that is left out.
    left_out: u8,
    q: Vec<Line>,
    woven: Vec<Line>,
    digits: Vec<Line>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    half_sums: Vec<f32>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActivationRow<'a> {
    /// K / 32
    pub(crate) n_blocks: usize,
    /// A line for each block, and one of zeros if they are odd.
    pub(crate) q: &'a [Line],
    /// The same in the order in which the instruction set multiplies, if that is another.
    pub(crate) woven: &'a [Line],
    /// Of a row alone: both bytes of each number, in the orders of AVX-512.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "see `DIGIT_LINES`"))]
    pub(crate) digits: &'a [Line],
    /// Of each chunk.
    pub(crate) scales: &'a [f32],
    /// Of each block the sum of its numbers, as they are after rounding; zeros up to a whole chunk.
    pub(crate) sums: &'a [f32],
    /// The same of each half of a block.
    pub(crate) half_sums: &'a [f32],
}

impl ActivationRow<'_> {
    /// What offsets of a format are multiplied with, and how many there are.
    #[inline(always)]
    pub(super) fn sums_for<F: BlockScales>(&self) -> (&[f32], usize) {
        if F::HALF_MINS { (self.half_sums, 2 * self.n_blocks) } else { (self.sums, self.n_blocks) }
    }
}

/// One row, to be filled.
#[derive(Debug)]
pub(crate) struct ActivationRowMut<'a> {
    /// Whether no other row is multiplied with it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "one order for any number of rows"))]
    pub(crate) alone: bool,
    /// See [`Activations::leave_out`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "see `DIGIT_LINES`"))]
    pub(crate) left_out: u8,
    pub(crate) q: &'a mut [Line],
    pub(crate) woven: &'a mut [Line],
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "see `DIGIT_LINES`"))]
    pub(crate) digits: &'a mut [Line],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [f32],
    pub(crate) half_sums: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl ActivationRowMut<'_> {
    /// The same, for a shorter time.
    pub(crate) fn reborrow(&mut self) -> ActivationRowMut<'_> {
        ActivationRowMut {
            alone: self.alone,
            left_out: self.left_out,
            q: self.q,
            woven: self.woven,
            digits: self.digits,
            scales: self.scales,
            sums: self.sums,
            half_sums: self.half_sums,
        }
    }
}

impl Activations {
    /// Makes room for `n_rows` rows of `k` numbers.
    pub(crate) fn reserve(&mut self, n_rows: usize, k: usize) {
        assert!(k.is_multiple_of(BLOCK), "{k} numbers are not whole blocks");
        (self.n_rows, self.n_blocks, self.left_out) = (n_rows, k / BLOCK, 0);
        let n_chunks = self.n_blocks.div_ceil(CHUNK_BLOCKS);
        let grow = |len: usize, needed: usize| needed.max(len);
        self.q.resize(grow(self.q.len(), n_rows * self.n_lines()), Line([0; BLOCK]));
        self.woven.resize(self.q.len(), Line([0; BLOCK]));
        if n_rows == 1 {
            self.digits.resize(grow(self.digits.len(), n_chunks * DIGIT_LINES), Line([0; BLOCK]));
        }
        self.scales.resize(grow(self.scales.len(), n_rows * n_chunks), 0.0);
        self.sums.resize(grow(self.sums.len(), n_rows * n_chunks * CHUNK_BLOCKS), 0.0);
        self.half_sums.resize(2 * self.sums.len(), 0.0);
    }

    /// Of a row alone: which orders of its digits nobody will read, a bit for each. What is written is fetched from one core by
    /// the others, and back again for the next row.
    pub(crate) fn leave_out(&mut self, orders: u8) {
        self.left_out = orders;
    }

    /// Rows that were reserved.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Blocks in a row.
    pub(crate) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Lines of a row: whole pairs.
    fn n_lines(&self) -> usize {
        self.n_blocks.next_multiple_of(2)
    }

    fn n_chunks(&self) -> usize {
        self.n_blocks.div_ceil(CHUNK_BLOCKS)
    }

    /// Row t.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize) -> ActivationRow<'_> {
        assert!(t < self.n_rows, "row {t} of {}", self.n_rows);
        let n_chunks = self.n_chunks();
        let n_sums = n_chunks * CHUNK_BLOCKS;
        ActivationRow {
            n_blocks: self.n_blocks,
            q: &self.q[t * self.n_lines()..][..self.n_lines()],
            woven: &self.woven[t * self.n_lines()..][..self.n_lines()],
            digits: if self.n_rows == 1 { &self.digits[..n_chunks * DIGIT_LINES] } else { &[] },
            scales: &self.scales[t * n_chunks..][..n_chunks],
            sums: &self.sums[t * n_sums..][..n_sums],
            half_sums: &self.half_sums[2 * t * n_sums..][..2 * n_sums],
        }
    }

    /// All rows, to be filled.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = ActivationRowMut<'_>> {
        let (alone, left_out) = (self.n_rows == 1, self.left_out);
        let n_chunks = self.n_chunks();
        let n_lines = self.n_lines();
        let q = self.q.chunks_exact_mut(n_lines).zip(self.woven.chunks_exact_mut(n_lines));
        let scales = self.scales.chunks_exact_mut(n_chunks);
        let n_sums = n_chunks * CHUNK_BLOCKS;
        let sums = self.sums.chunks_exact_mut(n_sums).zip(self.half_sums.chunks_exact_mut(2 * n_sums));
        let mut digits = if alone { &mut self.digits[..n_chunks * DIGIT_LINES] } else { &mut [] };
        let rows = q.zip(scales).zip(sums).take(self.n_rows);
        rows.map(move |(((q, woven), scales), (sums, half_sums))| ActivationRowMut {
            alone,
            left_out,
            q,
            woven,
            // Of the only row.
            digits: std::mem::take(&mut digits),
            scales,
            sums,
            half_sums,
        })
    }

    /// Bytes that are held.
    pub(crate) fn bytes(&self) -> usize {
        2 * size_of_val(&self.q[..])
            + size_of_val(&self.digits[..])
            + size_of_val(&self.scales[..])
            + 3 * size_of_val(&self.sums[..])
    }
}
