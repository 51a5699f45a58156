//! Q4_0: 32 weights of 4 bits and one scale, 4.5 bits a weight. `w = d · (q - 8)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, planes, round};

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
        for (w, q) in dst.iter_mut().zip(nibbles(&self.qs)) {
            *w = d * (f32::from(q) - 8.0);
        }
    }

    fn quantize(src: &[f32; LEN], _: Option<&[f32; LEN]>) -> Self {
        // The weight of the largest magnitude becomes -8, the one end of the range that is further from zero.
        let d = round::furthest_from_zero(src) / -8.0;
        let per_d = round::reciprocal(d);
        let q = src.map(|w| round::truncate(w * per_d + 8.5, 15));
        Self { d: Half::from_f32(d), qs: std::array::from_fn(|i| q[i] | q[i + LEN / 2] << 4) }
    }
}

/// The quants of Q4_0 and Q4_1. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8; LEN / 2]) -> [u8; LEN] {
    let mut q = [0; LEN];
    for i in 0..LEN / 2 {
        q[i] = qs[i] & 15;
        q[i + LEN / 2] = qs[i] >> 4;
    }
    q
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, d] = planes::split(planes);
    let (qs, d) = (planes::entries(qs), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        d[i] = block.d;
    }
}
