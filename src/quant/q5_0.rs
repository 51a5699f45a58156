//! Q5_0: 32 weights of 5 bits and one scale, 5.5 bits a weight. `w = d · (q - 16)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::q4_0::{join_nibbles, nibbles};
use super::search::{self, Signed};
use super::{Format, Plane, planes};

/// Weights in a block.
pub const LEN: usize = 32;

/// ```text
/// byte 0     2             6                               22
///      d f16 qh: bit i is  qs: byte i has
///            bit 4 of q    bits 0-3  bits 0-3 of q of weight i
///            of weight i   bits 4-7  bits 0-3 of q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Fifth bits.
    pub qh: [u8; 4],
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 22 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 6,
    name: "Q5_0",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[
        Plane { name: "qs", block_bytes: 16 },
        Plane { name: "qh", block_bytes: 4 },
        Plane { name: "d", block_bytes: 2 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q5_0.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        for (w, q) in dst.iter_mut().zip(five_bits(&self.qs, self.qh)) {
            *w = d * (f32::from(q) - 16.0);
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let (d, q) = search::block(Signed::<16>, src, importance);
        let (qs, qh) = split_five_bits(&q);
        Self { d, qh, qs }
    }
}

/// The quants of Q5_0 and Q5_1 out of their nibbles and fifth bits.
#[inline(always)]
pub(super) fn five_bits(qs: &[u8; LEN / 2], qh: [u8; 4]) -> [u8; LEN] {
    let mut q = nibbles(qs);
    for i in 0..LEN {
        // A test against a constant, not a shift: vectors of bytes can do the one but not the other.
        q[i] |= if qh[i / 8] & 1 << (i % 8) != 0 { 16 } else { 0 };
    }
    q
}

/// The inverse of [`five_bits`].
pub(super) fn split_five_bits(q: &[u8; LEN]) -> ([u8; LEN / 2], [u8; 4]) {
    let qh = (0..LEN).fold(0, |qh, i| qh | u32::from(q[i] >> 4) << i);
    (join_nibbles(q), qh.to_le_bytes())
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, qh, d] = planes::split(planes);
    let (qs, qh, d) = (planes::entries(qs), planes::entries(qh), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        qh[i] = planes::fifths(block.qh);
        d[i] = block.d;
    }
}
