//! Q4_0: 32 weights of 4 bits and one scale, 4.5 bits a weight. `w = d · (q - 8)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::search::{self, Signed};
use super::{Format, Plane, planes};

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

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let (d, q) = search::block(Signed::<8>, src, importance);
        Self { d, qs: join_nibbles(&q) }
    }
}

/// Quants out of their nibbles, as formats with blocks of 32 keep them. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8; LEN / 2]) -> [u8; LEN] {
    let mut q = [0; LEN];
    for i in 0..LEN / 2 {
        q[i] = qs[i] & 15;
        q[i + LEN / 2] = qs[i] >> 4;
    }
    q
}

/// The inverse of [`nibbles`], of the lowest four bits of each number.
pub(super) fn join_nibbles(q: &[u8; LEN]) -> [u8; LEN / 2] {
    std::array::from_fn(|i| q[i] & 15 | q[i + LEN / 2] << 4)
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, d] = planes::split(planes);
    let (qs, d) = (planes::entries(qs), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        d[i] = block.d;
    }
}
