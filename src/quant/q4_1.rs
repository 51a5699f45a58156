//! Q4_1: 32 weights of 4 bits, a scale and an offset, 5 bits a weight. `w = d · q + m`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::q4_0::{join_nibbles, nibbles};
use super::{Format, Plane, affine, planes};

/// Weights in a block.
pub const LEN: usize = 32;

/// ```text
/// byte 0     2     4                        20
///      d f16 m f16 qs: byte i has
///                  bits 0-3  q of weight i
///                  bits 4-7  q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Offset.
    pub m: Half,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 20 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 3,
    name: "Q4_1",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 16 }, Plane { name: "dm", block_bytes: 4 }],
    pack,
    shader: include_str!("../../shaders/quant/q4_1.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (w, q) in dst.iter_mut().zip(nibbles(&self.qs)) {
            *w = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let (d, m, q) = affine::block(src, importance, 15);
        Self { d, m, qs: join_nibbles(&q) }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, dm] = planes::split(planes);
    let (qs, dm) = (planes::entries(qs), planes::entries(dm));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        dm[i] = [block.d, block.m];
    }
}
