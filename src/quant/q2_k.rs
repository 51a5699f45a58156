//! Q2_K: 256 weights of 2 bits in sixteen sub-blocks with a 4-bit scale and offset each, 2.625 bits a weight.
//! `w = (d · scale) · q - (dmin · min)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, affine, planes};

/// Weights in a block.
pub const LEN: usize = 256;

/// The two halves of a block, h = 0 and 1, lie alike:
/// ```text
/// byte 0                       16                           80    82      84
///      scales: byte s of       qs: byte 32h + i (i < 32)    d f16 dmin f16
///      weights 16s … 16s + 15  bits 2k, 2k+1 (k < 4) are
///      bits 0-3  scale         q of weight 128h + 32k + i
///      bits 4-7  min
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scales and offsets of the sub-blocks of 16.
    pub scales: [u8; LEN / 16],
    /// Quants.
    pub qs: [u8; LEN / 4],
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the offsets.
    pub dmin: Half,
}

const _: () = assert!(size_of::<Block>() == 84 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 10,
    name: "Q2_K",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[
        Plane { name: "qs", block_bytes: 64 },
        Plane { name: "sc", block_bytes: 16 },
        Plane { name: "dm", block_bytes: 4 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q2_k.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let scaled = self.scales.map(|both| (d * f32::from(both & 15), dmin * f32::from(both >> 4)));
        let q = two_bits(&self.qs);
        for ((sub, q), (d, m)) in dst.as_chunks_mut::<16>().0.iter_mut().zip(q.as_chunks::<16>().0).zip(scaled) {
            *sub = q.map(|q| d * f32::from(q) - m);
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let found = affine::super_block::<16, 16>(src, importance, 3, 15);
        let scales = std::array::from_fn(|i| found.scales[i] | found.mins[i] << 4);
        Self { scales, qs: join_two_bits(&found.q), d: found.d, dmin: found.dmin }
    }
}

/// The two-bit numbers of Q2_K and Q3_K. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
pub(super) fn two_bits(qs: &[u8; LEN / 4]) -> [u8; LEN] {
    let mut q = [0; LEN];
    for h in 0..2 {
        for i in 0..32 {
            for k in 0..4 {
                q[128 * h + 32 * k + i] = qs[32 * h + i] >> (2 * k) & 3;
            }
        }
    }
    q
}

/// The inverse of [`two_bits`], of the lowest two bits of each number.
pub(super) fn join_two_bits(q: &[u8; LEN]) -> [u8; LEN / 4] {
    let of = |first: usize| (0..4).fold(0, |byte, k| byte | (q[first + 32 * k] & 3) << (2 * k));
    std::array::from_fn(|i| of(i / 32 * 128 + i % 32))
}

/// The plane of the two-bit numbers of Q2_K and Q3_K, group by group.
pub(super) fn two_bit_groups(qs: &[u8; LEN / 4]) -> [[[u8; 4]; 2]; 8] {
    std::array::from_fn(|group| planes::two_bits_at(2 * (group % 4), &qs.as_chunks::<32>().0[group / 4]))
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, sc, dm] = planes::split(planes);
    let (qs, sc, dm) = (planes::entries(qs), planes::entries(sc), planes::entries(dm));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = two_bit_groups(&block.qs);
        sc[i] = block.scales;
        dm[i] = [block.d, block.dmin];
    }
}
