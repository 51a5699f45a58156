//! Q4_K: 256 weights of 4 bits in eight sub-blocks with a 6-bit scale and offset each, 4.5 bits a weight.
//! `w = (d · scale) · q - (dmin · min)`.

use bytemuck::{Pod, Zeroable};

use super::block;
use super::k_scales::Head;
use super::{Format, Plane, affine, planes};

/// Weights in a block.
pub const LEN: usize = 256;

/// ```text
/// byte 0                         16                                     144
///      head: d, dmin, scales     qs: byte 32c + i (c < 4, i < 32) has
///                                bits 0-3  q of weight 64c + i
///                                bits 4-7  q of weight 64c + i + 32
/// ```
/// Weight i is in sub-block i / 32.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scales and offsets.
    pub head: Head,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 144 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 12,
    name: "Q4_K",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 128 }, Plane { name: "head", block_bytes: 16 }],
    pack,
    shader: include_str!("../../shaders/quant/q4_k.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (scales, mins) = self.head.unpack();
        let (subs, _) = dst.as_chunks_mut::<32>();
        let (qs, _) = self.qs.as_chunks::<32>();
        for (c, qs) in qs.iter().enumerate() {
            let (low, high) = (qs.map(|q| q & 15), qs.map(|q| q >> 4));
            for (sub, q) in [(2 * c, low), (2 * c + 1, high)] {
                let (d, m) = (scales[sub], mins[sub]);
                for (w, q) in subs[sub].iter_mut().zip(q) {
                    *w = d * f32::from(q) - m;
                }
            }
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let found = affine::super_block::<32, 8>(src, importance, 15, 63);
        let (head, q) = (Head::new(found.d, &found.scales, found.dmin, &found.mins), found.q);
        let mut qs = [0; LEN / 2];
        for (i, byte) in qs.iter_mut().enumerate() {
            let low = i / 32 * 64 + i % 32;
            *byte = q[low] | q[low + 32] << 4;
        }
        Self { head, qs }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, head] = planes::split(planes);
    let (qs, head) = (planes::entries::<[[[u8; 16]; 2]; 4]>(qs), planes::entries(head));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        for (pair, bytes) in qs[i].iter_mut().zip(block.qs.as_chunks().0) {
            *pair = planes::nibble_pairs(bytes);
        }
        head[i] = block.head.pack();
    }
}
