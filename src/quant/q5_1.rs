//! Q5_1: 32 weights of 5 bits, a scale and an offset, 6 bits a weight. `w = d · q + m`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::q5_0::{five_bits, split_five_bits};
use super::{Format, Plane, affine, planes};

/// Weights in a block.
pub const LEN: usize = 32;

/// ```text
/// byte 0     2     4             8                               24
///      d f16 m f16 qh: bit i is  qs: byte i has
///                  bit 4 of q    bits 0-3  bits 0-3 of q of weight i
///                  of weight i   bits 4-7  bits 0-3 of q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Offset.
    pub m: Half,
    /// Fifth bits.
    pub qh: [u8; 4],
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 24 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 7,
    name: "Q5_1",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[
        Plane { name: "qs", block_bytes: 16 },
        Plane { name: "qh", block_bytes: 4 },
        Plane { name: "dm", block_bytes: 4 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q5_1.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (w, q) in dst.iter_mut().zip(five_bits(&self.qs, self.qh)) {
            *w = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let (d, m, q) = affine::block(src, importance, 31);
        let (qs, qh) = split_five_bits(&q);
        Self { d, m, qh, qs }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, qh, dm] = planes::split(planes);
    let (qs, qh, dm) = (planes::entries(qs), planes::entries(qh), planes::entries(dm));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        qh[i] = planes::fifths(block.qh);
        dm[i] = [block.d, block.m];
    }
}
