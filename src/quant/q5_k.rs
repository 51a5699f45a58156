//! Q5_K: 256 weights of 5 bits in eight sub-blocks with a 6-bit scale and offset each, 5.5 bits a weight.
//! `w = (d · scale) · q - (dmin · min)`.

use bytemuck::{Pod, Zeroable};

use super::block;
use super::k_scales::Head;
use super::{Format, Plane, affine, planes};

/// Weights in a block.
pub const LEN: usize = 256;

/// ```text
/// byte 0                        16                 48                                    176
///      head: d, dmin, scales    qh: byte i (< 32)  qs: byte 32c + i (c < 4, i < 32) has
///                               bit s is bit 4     bits 0-3  bits 0-3 of q of weight 64c + i
///                               of weight 32s + i  bits 4-7  bits 0-3 of q of weight 64c + i + 32
/// ```
/// Weight i is in sub-block i / 32.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scales and offsets.
    pub head: Head,
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
    planes: &[
        Plane { name: "qs", block_bytes: 128 },
        Plane { name: "qh", block_bytes: 32 },
        Plane { name: "head", block_bytes: 16 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q5_k.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (scales, mins) = self.head.unpack();
        let q = five_bits(&self.qs, &self.qh);
        for (sub, (w, q)) in dst.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<32>().0).enumerate() {
            let (d, m) = (scales[sub], mins[sub]);
            for (w, q) in w.iter_mut().zip(q) {
                *w = d * f32::from(*q) - m;
            }
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let found = affine::super_block::<32, 8>(src, importance, 31, 63);
        let (head, q) = (Head::new(found.d, &found.scales, found.dmin, &found.mins), found.q);
        let (mut qs, mut qh) = ([0; LEN / 2], [0; LEN / 8]);
        for (i, byte) in qs.iter_mut().enumerate() {
            let low = i / 32 * 64 + i % 32;
            *byte = q[low] & 15 | q[low + 32] << 4;
        }
        for (i, q) in q.iter().enumerate() {
            qh[i % 32] |= q >> 4 << (i / 32);
        }
        Self { head, qh, qs }
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

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, qh, head] = planes::split(planes);
    let (qs, qh) = (planes::entries::<[[[u8; 16]; 2]; 4]>(qs), planes::entries::<[[u8; 4]; 8]>(qh));
    let head = planes::entries(head);
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        for (pair, bytes) in qs[i].iter_mut().zip(block.qs.as_chunks().0) {
            *pair = planes::nibble_pairs(bytes);
        }
        for (sub, bits) in qh[i].iter_mut().enumerate() {
            *bits = planes::fifths_at(sub, &block.qh);
        }
        head[i] = block.head.pack();
    }
}
