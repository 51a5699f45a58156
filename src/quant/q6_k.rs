//! Q6_K: 256 weights of 6 bits in sixteen sub-blocks with an 8-bit scale each, 6.5625 bits a weight.
//! `w = (d · scale) · (q - 32)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::search::{self, Signed};
use super::{Format, Plane, planes};

/// Weights in a block.
pub const LEN: usize = 256;

/// The two halves of a block, h = 0 and 1, lie alike:
/// ```text
/// byte 0                            128                        192          208   210
///      ql: byte 64h + i (< 64) has  qh: byte 32h + i (< 32)    scales: i8   d f16
///      bits 0-3 of q of weight      bits 2k, 2k+1 (k < 4) are  of weights
///      128h + i in its bits 0-3     bits 4, 5 of q of weight   16i … 16i+15
///      128h + i + 64 in bits 4-7    128h + 32k + i
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Nibbles.
    pub ql: [u8; LEN / 2],
    /// Fifth and sixth bits.
    pub qh: [u8; LEN / 4],
    /// Scales of the sub-blocks of 16.
    pub scales: [i8; LEN / 16],
    /// Scale of the scales.
    pub d: Half,
}

const _: () = assert!(size_of::<Block>() == 210 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 14,
    name: "Q6_K",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[
        Plane { name: "ql", block_bytes: 128 },
        Plane { name: "qh", block_bytes: 64 },
        Plane { name: "sc", block_bytes: 16 },
        Plane { name: "d", block_bytes: 2 },
    ],
    pack,
    shader: include_str!("../../shaders/quant/q6_k.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        let scaled = self.scales.map(|scale| d * f32::from(scale));
        let (subs, _) = dst.as_chunks_mut::<16>();
        for h in 0..2 {
            let q = six_bits(&self.ql[64 * h..][..64], &self.qh[32 * h..][..32]);
            let (q, _) = q.as_chunks::<16>();
            for ((sub, q), d) in subs[8 * h..][..8].iter_mut().zip(q).zip(&scaled[8 * h..][..8]) {
                *sub = q.map(|q| d * (f32::from(q) - 32.0));
            }
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let search::SuperBlock { d, scales, q, .. } =
            search::super_block::<_, 16, 16>(Signed::<32>, src, importance, -128);
        let (mut ql, mut qh) = ([0; LEN / 2], [0; LEN / 4]);
        for h in 0..2 {
            let (q, ql, qh) = (&q[128 * h..][..128], &mut ql[64 * h..][..64], &mut qh[32 * h..][..32]);
            for i in 0..32 {
                ql[i] = q[i] & 15 | q[i + 64] << 4;
                ql[i + 32] = q[i + 32] & 15 | q[i + 96] << 4;
                qh[i] = q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6;
            }
        }
        Self { ql, qh, scales, d }
    }
}

/// The quants of half a block. All of them before any is scaled: so the loop is one over vectors of bytes.
#[inline(always)]
fn six_bits(ql: &[u8], qh: &[u8]) -> [u8; 128] {
    let mut q = [0; 128];
    for i in 0..32 {
        q[i] = ql[i] & 15 | (qh[i] & 3) << 4;
        q[i + 32] = ql[i + 32] & 15 | (qh[i] & 12) << 2;
        q[i + 64] = ql[i] >> 4 | qh[i] & 48;
        q[i + 96] = ql[i + 32] >> 4 | qh[i] >> 2 & 48;
    }
    q
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [ql, qh, sc, d] = planes::split(planes);
    let (ql, qh) = (planes::entries::<[[u8; 16]; 8]>(ql), planes::entries::<[[[u8; 4]; 2]; 8]>(qh));
    let (sc, d) = (planes::entries(sc), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        let (low, high) = (block.ql.as_chunks::<32>().0, block.qh.as_chunks::<32>().0);
        for h in 0..2 {
            // The first 32 bytes of a half have groups 0 and 2, the other ones groups 1 and 3.
            for odd in 0..2 {
                let [a, b] = planes::nibble_pairs(&low[2 * h + odd]);
                (ql[i][4 * h + odd], ql[i][4 * h + odd + 2]) = (a, b);
            }
            for k in 0..4 {
                qh[i][4 * h + k] = planes::two_bits_at(2 * k, &high[h]);
            }
        }
        sc[i] = block.scales;
        d[i] = block.d;
    }
}
