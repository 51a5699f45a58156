//! Q8_0: 32 weights of 8 bits and one scale, 8.5 bits a weight. `w = d · q`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, planes, round};

/// Weights in a block.
pub const LEN: usize = 32;

/// ```text
/// byte 0     2                          34
///      d f16 qs: byte i is q of weight i
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Quants.
    pub qs: [i8; LEN],
}

const _: () = assert!(size_of::<Block>() == 34 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 8,
    name: "Q8_0",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 32 }, Plane { name: "d", block_bytes: 2 }],
    pack,
    shader: include_str!("../../shaders/quant/q8_0.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        for (w, q) in dst.iter_mut().zip(self.qs) {
            *w = d * f32::from(q);
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], _: Option<&[f32; LEN]>) -> Self {
        let d = round::furthest_from_zero(src).abs() / 127.0;
        let (per_d, mut qs) = (round::reciprocal(d), [0; LEN]);
        for (q, w) in qs.iter_mut().zip(src) {
            *q = round::half_away(w * per_d);
        }
        Self { d: Half::from_f32(d), qs }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, d] = planes::split(planes);
    let (qs, d) = (planes::entries(qs), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        // Unsigned bytes need no sign to be kept where a mask takes two of four; the kernels subtract 128 times Σ x.
        qs[i] = block.qs.map(|q| q as u8 ^ 0x80);
        d[i] = block.d;
    }
}
