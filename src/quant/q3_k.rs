//! Q3_K: 256 weights of 3 bits in sixteen sub-blocks with a 6-bit scale each, 3.4375 bits a weight.
//! `w = (d · (scale - 32)) · (q - 4)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::q2_k::{join_two_bits, two_bit_groups, two_bits};
use super::search::{self, Signed};
use super::{Format, Plane, k_scales, planes};

/// Weights in a block.
pub const LEN: usize = 256;

/// ```text
/// byte 0                    32                             96                     108   110
///      qh: byte i (< 32)    qs: byte 32h + i (h < 2)       scales: see `Scales`   d f16
///      bit k is bit 2 of q  bits 2k, 2k+1 (k < 4) are bits
///      of weight 32k + i    0, 1 of q of 128h + 32k + i
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Third bits.
    pub qh: [u8; LEN / 8],
    /// The two bits below them.
    pub qs: [u8; LEN / 4],
    /// Scales of the sub-blocks of 16.
    pub scales: Scales,
    /// Scale of the scales.
    pub d: Half,
}

const _: () = assert!(size_of::<Block>() == 110 && align_of::<Block>() == 1);

/// Sixteen scales of 6 bits, 32 too large.
/// ```text
/// byte 0                        8                                12
///      byte i (< 8)             byte i (< 4)
///      bits 0-3  bits 0-3 of    bits 2k, 2k+1 (k < 4) are bits
///                scale i        4, 5 of scale 4k + i
///      bits 4-7  the same of i + 8
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Scales(pub [u8; 12]);

pub(super) static FORMAT: Format = Format {
    id: 11,
    name: "Q3_K",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[
        Plane { name: "qs", block_bytes: 64 },
        Plane { name: "qh", block_bytes: 32 },
        Plane { name: "sc", block_bytes: 12 },
        Plane { name: "d", block_bytes: 2 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q3_k.wgsl"),
};

impl Scales {
    /// Every number of `scales` is at most 63.
    pub(super) fn new(scales: &[u8; 16]) -> Self {
        let mut packed = [0; 12];
        for (i, scale) in scales.iter().enumerate() {
            packed[i % 8] |= (scale & 15) << (4 * (i / 8));
            packed[8 + i % 4] |= scale >> 4 << (2 * (i / 4));
        }
        Self(packed)
    }

    /// The scales as they are stored: 32 too large.
    #[inline(always)]
    pub fn unpack(&self) -> [u8; 16] {
        let mut scales = [0; 16];
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = self.0[i % 8] >> (4 * (i / 8)) & 15 | (self.0[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
        }
        scales
    }
}

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        let scaled = self.scales.unpack().map(|scale| d * (f32::from(scale) - 32.0));
        let q = three_bits(&self.qs, &self.qh);
        for ((sub, q), d) in dst.as_chunks_mut::<16>().0.iter_mut().zip(q.as_chunks::<16>().0).zip(scaled) {
            *sub = q.map(|q| d * (f32::from(q) - 4.0));
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let found = search::super_block::<_, 16, 16>(Signed::<4>, src, importance, -32);
        let mut qh = [0; LEN / 8];
        for (i, q) in found.q.iter().enumerate() {
            qh[i % 32] |= q >> 2 << (i / 32);
        }
        let scales = Scales::new(&found.scales.map(|scale| (scale + 32) as u8));
        Self { qh, qs: join_two_bits(&found.q), scales, d: found.d }
    }
}

/// The quants of a block. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
fn three_bits(qs: &[u8; LEN / 4], qh: &[u8; LEN / 8]) -> [u8; LEN] {
    let mut q = two_bits(qs);
    for k in 0..8 {
        for i in 0..32 {
            q[32 * k + i] |= (qh[i] >> k & 1) << 2;
        }
    }
    q
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, qh, sc, d] = planes::split(planes);
    let (qs, qh) = (planes::entries(qs), planes::entries::<[[u8; 4]; 8]>(qh));
    let (sc, d) = (planes::entries(sc), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = two_bit_groups(&block.qs);
        qh[i] = std::array::from_fn(|group| planes::fifths_at(group, &block.qh));
        let scales = block.scales.unpack();
        // Those of a group's two halves together, as the scale and the offset of a group are elsewhere.
        let half = |s: usize| std::array::from_fn(|group| scales[2 * group + s]);
        sc[i] = k_scales::pack_pairs(&half(0), &half(1));
        d[i] = block.d;
    }
}

#[cfg(test)]
mod tests {
    use super::Scales;

    #[test]
    fn all_six_bits_survive() {
        for i in 0..64 {
            let scales = std::array::from_fn(|j| ((i + 9 * j) % 64) as u8);
            assert_eq!(Scales::new(&scales).unpack(), scales);
        }
    }
}
