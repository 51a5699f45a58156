//! What the block formats have in common: viewing bytes as blocks, and running a function over all of them.
//!
//! A block struct is made of byte arrays only. It therefore has an alignment of 1, so that whole tensors can be viewed
//! in place wherever they lie in a file, and no compiler can pad it.

use bytemuck::{Pod, Zeroable};

/// A block of `N` weights, bit for bit as it lies in a file.
pub trait Block<const N: usize>: Pod {
    /// The weights of this block, with the float operations in ggml's order: the same bits on every machine.
    fn dequantize(&self, dst: &mut [f32; N]);

    /// The block whose weights are near to `src`, those nearer that are of more importance.
    fn quantize(src: &[f32; N], importance: Option<&[f32; N]>) -> Self;
}

/// Bytes as the blocks they are.
///
/// # Panics
/// If `bytes` does not hold whole blocks.
#[inline(always)]
pub fn blocks<B: Pod>(bytes: &[u8]) -> &[B] {
    bytemuck::cast_slice(bytes)
}

/// [`super::Format::dequantize`] of a block format.
///
/// # Panics
/// If `src` does not hold whole blocks, or `dst` is not as long as their weights.
pub(super) fn dequantize<B: Block<N>, const N: usize>(src: &[u8], dst: &mut [f32]) {
    let (src, dst) = (blocks::<B>(src), whole::<N>(dst));
    assert_eq!(src.len(), dst.len(), "blocks to read and blocks to write");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was detected.
        return unsafe { dequantize_avx2(src, dst) };
    }
    dequantize_all(src, dst);
}

/// [`dequantize_all`], compiled for a CPU with AVX2. Without fused multiply-add, so that the numbers are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dequantize_avx2<B: Block<N>, const N: usize>(src: &[B], dst: &mut [[f32; N]]) {
    dequantize_all(src, dst);
}

#[inline(always)]
fn dequantize_all<B: Block<N>, const N: usize>(src: &[B], dst: &mut [[f32; N]]) {
    for (block, weights) in src.iter().zip(dst) {
        // Vectors within a block, not across blocks: left to itself the compiler gathers the same byte of eight blocks,
        // and scatters the weights. Single numbers have nothing within.
        let block = if N > 1 { std::hint::black_box(block) } else { block };
        block.dequantize(weights);
    }
}

/// [`super::Format::quantize`] of a block format.
///
/// # Panics
/// If `src` does not hold whole blocks, and whole rows of as many columns as have an importance, or `dst` is not as long as
/// they take.
pub(super) fn quantize<B: Block<N>, const N: usize>(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    let (src, rest) = src.as_chunks::<N>();
    let dst: &mut [B] = bytemuck::cast_slice_mut(dst);
    assert!(rest.is_empty() && src.len() == dst.len(), "blocks to read and blocks to write");
    let importance = importance.map(|importance| {
        let (blocks, rest) = importance.as_chunks::<N>();
        assert!(rest.is_empty() && !blocks.is_empty() && src.len().is_multiple_of(blocks.len()), "rows and columns");
        blocks
    });
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was detected.
        return unsafe { quantize_avx2(src, importance, dst) };
    }
    quantize_all(src, importance, dst);
}

/// [`quantize_all`], compiled for a CPU with AVX2. Without fused multiply-add, so that the blocks are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2<B: Block<N>, const N: usize>(src: &[[f32; N]], importance: Option<&[[f32; N]]>, dst: &mut [B]) {
    quantize_all(src, importance, dst);
}

#[inline(always)]
fn quantize_all<B: Block<N>, const N: usize>(src: &[[f32; N]], importance: Option<&[[f32; N]]>, dst: &mut [B]) {
    for (i, (weights, block)) in src.iter().zip(dst).enumerate() {
        *block = B::quantize(weights, importance.map(|blocks| &blocks[i % blocks.len()]));
    }
}

fn whole<const N: usize>(weights: &mut [f32]) -> &mut [[f32; N]] {
    let (weights, rest) = weights.as_chunks_mut::<N>();
    assert!(rest.is_empty(), "blocks of {N} weights, and {} more", rest.len());
    weights
}

/// A number of IEEE 754 binary16, as two bytes of a file.
///
/// ```text
/// bit 15 14····10 9········0
///     s  exponent mantissa
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The nearest half, ties to even.
    pub fn from_f32(x: f32) -> Self {
        Self(half::f16::from_f32(x).to_le_bytes())
    }

    /// Its value, exactly. Written in selections rather than branches or calls, so that loops over it become vectors.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        const EXPONENT: u32 = 1 << 23;
        let bits = u32::from(u16::from_le_bytes(self.0));
        let magnitude = (bits & 0x7fff) << 13;
        // The biases are 15 and 127. A denormal gets the exponent of the smallest normal number, whose implicit one is
        // then taken off again: no f32 denormal is ever touched, they can be a hundred times slower.
        let normal = magnitude + 112 * EXPONENT;
        let denormal = f32::from_bits(magnitude + 113 * EXPONENT) - f32::from_bits(113 * EXPONENT);
        let infinite_or_nan = magnitude + 224 * EXPONENT;
        let value = if magnitude < EXPONENT {
            denormal.to_bits()
        } else if magnitude < 31 * EXPONENT {
            normal
        } else {
            infinite_or_nan
        };
        f32::from_bits(value | (bits & 0x8000) << 16)
    }
}

const _: () = assert!(size_of::<Half>() == 2 && align_of::<Half>() == 1);

#[cfg(test)]
mod tests {
    use super::Half;

    #[test]
    fn every_half_has_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (Half(bits.to_le_bytes()).to_f32(), half::f16::from_bits(bits).to_f32());
            if theirs.is_nan() {
                assert!(ours.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#06x}");
                assert_eq!(Half::from_f32(ours), Half(bits.to_le_bytes()));
            }
        }
    }
}
