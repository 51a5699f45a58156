//! Experts as gpt-oss has them: matrices of 4-bit floats, in blocks of 32 with a power of two for each.
//!
//! What is published is what GGUF calls MXFP4, with two neighbours in a byte in place of two that are half a block apart. So
//! blocks are moved bit by bit, and nothing is rounded again.
//!
//! Source: OCP Microscaling Formats (MX) Specification, version 1.0, section 5.3.

use crate::convert::rows::PackedRows;
use crate::convert::tensors::Tensor;
use crate::error::{Error, Result};

/// Bytes of the quants of a block, and of a block of GGUF's, which has its scale in front.
const QUANT_BYTES: usize = 16;
const BLOCK_BYTES: usize = 1 + QUANT_BYTES;

/// Rows of blocks; of all rows of the tensor every `step`-th, from `first` on.
pub(super) struct Experts {
    /// `[E, M, K / 32, 16]`
    blocks: Tensor,
    /// `[E, M, K / 32]`
    scales: Tensor,
    first: usize,
    step: usize,
}

impl Experts {
    /// Every `step`-th row from `first` on, and the shape `[E, M / step, K]` that they have.
    ///
    /// # Errors
    /// If the two tensors don't fit one another.
    pub(super) fn new(
        name: &str,
        blocks: &Tensor,
        scales: &Tensor,
        first: usize,
        step: usize,
    ) -> Result<(Self, Vec<usize>)> {
        let fits = match (&blocks.shape[..], &scales.shape[..]) {
            ([e, m, n, QUANT_BYTES], [se, sm, sn]) => [e, m, n] == [se, sm, sn] && m.is_multiple_of(step),
            _ => false,
        };
        let n_blocks: usize = scales.shape.iter().product();
        if !fits || n_blocks == 0 || scales.bytes.len() != n_blocks || blocks.bytes.len() != n_blocks * QUANT_BYTES {
            let expected = scales.shape.iter().copied().chain([QUANT_BYTES]).collect();
            return Err(Error::TensorShape { tensor: name.into(), expected, found: blocks.shape.clone() });
        }
        let shape = vec![scales.shape[0], scales.shape[1] / step, scales.shape[2] * 2 * QUANT_BYTES];
        Ok((Self { blocks: blocks.clone(), scales: scales.clone(), first, step }, shape))
    }
}

impl PackedRows for Experts {
    fn read(&self, row: usize, out: &mut [u8]) {
        let row = row * self.step + self.first;
        let n = out.len() / BLOCK_BYTES;
        let quants = self.blocks.bytes[row * n * QUANT_BYTES..].as_chunks::<QUANT_BYTES>().0;
        let scales = &self.scales.bytes[row * n..];
        for ((out, quants), scale) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().zip(quants).zip(scales) {
            out[0] = *scale;
            out[1..].copy_from_slice(&half_a_block_apart(quants));
        }
    }

    fn release(&self) {
        self.blocks.map.release(&self.blocks.bytes);
        self.scales.map.release(&self.scales.bytes);
    }
}

/// Byte i of the input has quants 2i and 2i + 1; that of the output has quants i and i + 16.
fn half_a_block_apart(quants: &[u8; QUANT_BYTES]) -> [u8; QUANT_BYTES] {
    let quant = |i: usize| quants[i / 2] >> (4 * (i % 2)) & 15;
    std::array::from_fn(|i| quant(i) | quant(i + QUANT_BYTES) << 4)
}
