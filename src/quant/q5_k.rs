//! Q5_K: 256 weights of 5 bits in eight sub-blocks with a 6-bit scale and offset each, 5.5 bits a weight.
//! `w = (d · scale) · q - (dmin · min)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, k_scales, search};

/// Weights in a block.
pub const LEN: usize = 256;

/// ```text
/// byte 0     2        4         16                 48                                    176
///      d f16 dmin f16 k_scales  qh: byte i (< 32)  qs: byte 32c + i (c < 4, i < 32) has
///                               bit s is bit 4     bits 0-3  bits 0-3 of q of weight 64c + i
///                               of weight 32s + i  bits 4-7  bits 0-3 of q of weight 64c + i + 32
/// ```
/// Weight i is in sub-block i / 32.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the offsets.
    pub dmin: Half,
    /// Scales and offsets of the sub-blocks.
    pub scales: k_scales::Packed,
    /// Fifth bits.
    pub qh: [u8; LEN / 8],
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 176 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 13,
    name: "Q5_K",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "blocks", block_bytes: size_of::<Block>() }],
    pack: block::pack_whole,
    shader: include_str!("../../shaders/quant/q5_k.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let (scales, mins) = k_scales::unpack(&self.scales);
        let q = five_bits(&self.qs, &self.qh);
        for (sub, (w, q)) in dst.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<32>().0).enumerate() {
            let (d, m) = (d * f32::from(scales[sub]), dmin * f32::from(mins[sub]));
            for (w, q) in w.iter_mut().zip(q) {
                *w = d * f32::from(*q) - m;
            }
        }
    }

    fn quantize(src: &[f32; LEN]) -> Self {
        let (head, q) = search::super_block(src, 31);
        let (mut qs, mut qh) = ([0; LEN / 2], [0; LEN / 8]);
        for (i, byte) in qs.iter_mut().enumerate() {
            let low = i / 32 * 64 + i % 32;
            *byte = q[low] & 15 | q[low + 32] << 4;
        }
        for (i, q) in q.iter().enumerate() {
            qh[i % 32] |= q >> 4 << (i / 32);
        }
        Self { d: head.d, dmin: head.dmin, scales: k_scales::pack(&head.scales, &head.mins), qh, qs }
    }
}

/// The quants of a block. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
fn five_bits(qs: &[u8; LEN / 2], qh: &[u8; LEN / 8]) -> [u8; LEN] {
    let mut q = [0; LEN];
    for i in 0..32 {
        for c in 0..4 {
            q[64 * c + i] = qs[32 * c + i] & 15 | (qh[i] >> (2 * c) & 1) << 4;
            q[64 * c + i + 32] = qs[32 * c + i] >> 4 | (qh[i] >> (2 * c + 1) & 1) << 4;
        }
    }
    q
}
