//! IQ4_XS: 256 weights of 4 bits in eight sub-blocks with a 6-bit scale each, 4.25 bits a weight; quants stand for the
//! numbers of IQ4_NL. `w = (d · (scale - 32)) · NUMBERS[q]`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::iq4_nl::{NUMBERS, Numbers};
use super::q4_0::{join_nibbles, nibbles};
use super::{Format, Plane, planes, search};

/// Weights in a block.
pub const LEN: usize = 256;

/// ```text
/// byte 0                8                                        136
///      head: see `Head` qs: byte 16s + i (s < 8, i < 16) has
///                       bits 0-3  q of weight 32s + i
///                       bits 4-7  q of weight 32s + i + 16
/// ```
/// Weight i is in sub-block i / 32.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scales.
    pub head: Head,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 136 && align_of::<Block>() == 1);

/// The scales of a block, 32 too large.
/// ```text
/// byte 0     2                   4                     8
///      d f16 bits 2s, 2s+1 are   bits 4s … 4s + 3 are
///            bits 4, 5 of scale  bits 0-3 of scale
///            s (s < 8)           s
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// Scale of the scales.
    pub d: Half,
    /// Fifth and sixth bits.
    pub high: [u8; 2],
    /// Nibbles.
    pub low: [u8; 4],
}

const _: () = assert!(size_of::<Head>() == 8 && align_of::<Head>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 23,
    name: "IQ4_XS",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 128 }, Plane { name: "head", block_bytes: 8 }],
    pack,
    shader: include_str!("../../shaders/quant/iq4_xs.wgsl"),
};

impl Head {
    /// Every number of `scales` is at most 63.
    fn new(d: Half, scales: &[u8; 8]) -> Self {
        let (mut low, mut high) = (0_u32, 0_u16);
        for (s, scale) in scales.iter().enumerate() {
            low |= u32::from(scale & 15) << (4 * s);
            high |= u16::from(scale >> 4) << (2 * s);
        }
        Self { d, high: high.to_le_bytes(), low: low.to_le_bytes() }
    }

    /// The scales as they are stored: 32 too large.
    #[inline(always)]
    pub fn scales(&self) -> [u8; 8] {
        let (low, high) = (u32::from_le_bytes(self.low), u16::from_le_bytes(self.high));
        std::array::from_fn(|s| (low >> (4 * s) & 15) as u8 | ((high >> (2 * s) & 3) << 4) as u8)
    }
}

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.head.d.to_f32();
        let scaled = self.head.scales().map(|scale| d * (f32::from(scale) - 32.0));
        let (subs, _) = dst.as_chunks_mut::<32>();
        for ((sub, qs), d) in subs.iter_mut().zip(self.qs.as_chunks::<16>().0).zip(scaled) {
            for (w, q) in sub.iter_mut().zip(nibbles(qs)) {
                *w = d * f32::from(NUMBERS[usize::from(q)]);
            }
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let found = search::super_block::<_, 32, 8>(Numbers, src, importance, -32);
        let head = Head::new(found.d, &found.scales.map(|scale| (scale + 32) as u8));
        let mut qs = [0; LEN / 2];
        for (to, q) in qs.as_chunks_mut::<16>().0.iter_mut().zip(found.q.as_chunks::<32>().0) {
            *to = join_nibbles(q);
        }
        Self { head, qs }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, head] = planes::split(planes);
    let (qs, head) = (planes::entries::<[[u8; 16]; 8]>(qs), planes::entries(head));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        for (group, bytes) in qs[i].iter_mut().zip(block.qs.as_chunks().0) {
            *group = planes::nibbles(bytes);
        }
        head[i] = block.head;
    }
}

#[cfg(test)]
mod tests {
    use super::{Half, Head};

    #[test]
    fn all_six_bits_survive() {
        for i in 0..64 {
            let scales = std::array::from_fn(|j| ((i + 9 * j) % 64) as u8);
            assert_eq!(Head::new(Half::from_f32(1.0), &scales).scales(), scales);
        }
    }
}
