//! Q6_K: 256 weights of 6 bits in sixteen sub-blocks with an 8-bit scale each, 6.5625 bits a weight.
//! `w = (d · scale) · (q - 32)`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, search};

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
        for sub in 0..16 {
            let d = d * f32::from(self.scales[sub]);
            let at = Place::of(16 * sub);
            let (ql, qh) = (&self.ql[at.ql..][..16], &self.qh[at.qh..][..16]);
            for ((w, ql), qh) in dst[16 * sub..][..16].iter_mut().zip(ql).zip(qh) {
                let q = ql >> at.ql_shift & 15 | (qh >> at.qh_shift & 3) << 4;
                *w = d * f32::from(q as i8 - 32);
            }
        }
    }

    fn quantize(src: &[f32; LEN]) -> Self {
        let (d, scales, q) = search::signed_super_block(src);
        let (mut ql, mut qh) = ([0; LEN / 2], [0; LEN / 4]);
        for (i, q) in q.iter().enumerate() {
            let at = Place::of(i);
            ql[at.ql] |= (q & 15) << at.ql_shift;
            qh[at.qh] |= q >> 4 << at.qh_shift;
        }
        Self { ql, qh, scales, d }
    }
}

/// Where the bits of a weight lie.
struct Place {
    ql: usize,
    ql_shift: usize,
    qh: usize,
    qh_shift: usize,
}

impl Place {
    #[inline(always)]
    fn of(i: usize) -> Self {
        let (half, i) = (i / 128, i % 128);
        Self { ql: 64 * half + i % 64, ql_shift: i / 64 * 4, qh: 32 * half + i % 32, qh_shift: i / 32 * 2 }
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [ql, qh, sc, d] = planes else { panic!("Q6_K has four planes, not {}", planes.len()) };
    let (ql, qh, sc, d) = (block::entries(ql), block::entries(qh), block::entries(sc), block::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        ql[i] = block.ql;
        qh[i] = block.qh;
        sc[i] = block.scales;
        d[i] = block.d;
    }
}
