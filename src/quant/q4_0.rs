//! Q4_0: 32 weights of 4 bits and one scale, 4.5 bits a weight. `w = d · (q - 8)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, round};

/// Weights in a block.
pub const LEN: usize = 32;

/// ```text
/// byte 0     2                        18
///      d f16 qs: byte i has
///            bits 0-3  q of weight i
///            bits 4-7  q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 18 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 2,
    name: "Q4_0",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 16 }, Plane { name: "d", block_bytes: 2 }],
    pack,
    shader: include_str!("../../shaders/quant/q4_0.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        let (low, high) = dst.split_at_mut(LEN / 2);
        for ((low, high), q) in low.iter_mut().zip(high).zip(self.qs) {
            *low = d * f32::from((q & 15) as i8 - 8);
            *high = d * f32::from((q >> 4) as i8 - 8);
        }
    }

    fn quantize(src: &[f32; LEN]) -> Self {
        // The weight of the largest magnitude becomes -8, the one end of the range that is further from zero.
        let d = round::furthest_from_zero(src) / -8.0;
        let per_d = round::reciprocal(d);
        let q = src.map(|w| round::truncate(w * per_d + 8.5, 15));
        Self { d: Half::from_f32(d), qs: std::array::from_fn(|i| q[i] | q[i + LEN / 2] << 4) }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, d] = planes else { panic!("Q4_0 has two planes, not {}", planes.len()) };
    let (qs, d) = (block::entries(qs), block::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = block.qs;
        d[i] = block.d;
    }
}
