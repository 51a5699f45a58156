//! MXFP4: 32 weights of 4 bits, floating-point numbers themselves, and a power of two as their scale, 4.25 bits a weight.
//! `w = 2^(e - 128) · NUMBERS[q]`.
//!
//! Source: OCP Microscaling Formats (MX) Specification 1.0. The numbers of its E2M1, 0 to 6 in halves at first, are doubled
//! here and the scale is halved, so that they are whole. A scale of 255, NaN there, is a number as any other for ggml.

use bytemuck::{Pod, Zeroable};

use super::block;
use super::q4_0::{join_nibbles, nibbles};
use super::round::furthest_from_zero;
use super::search::{self, Grid};
use super::{Format, Plane, planes};

/// Weights in a block.
pub const LEN: usize = 32;

/// What quants stand for, in units of the scale: bit 3 is the sign, bits 2 and 1 the exponent, bit 0 the mantissa.
pub const NUMBERS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// ```text
/// byte 0 1                        17
///      e qs: byte i has
///        bits 0-3  q of weight i
///        bits 4-7  q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Exponent of the scale.
    pub e: u8,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 17 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 39,
    name: "MXFP4",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 16 }, Plane { name: "e", block_bytes: 1 }],
    pack,
    shader: include_str!("../../shaders/quant/mxfp4.wgsl"),
};

/// 2^(e - 128), exactly; the two smallest are denormal.
#[inline(always)]
pub fn power(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = power(self.e);
        for (w, q) in dst.iter_mut().zip(nibbles(&self.qs)) {
            *w = d * f32::from(NUMBERS[usize::from(q)]);
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let most = furthest_from_zero(src).abs();
        // The smallest power that no weight is cut off by, and two below it: what the largest lose, others gain.
        let mut highest = 0;
        while highest < u8::MAX && power(highest) * Numbers::ENDS[1] < most {
            highest += 1;
        }
        let (importance, _) = search::importance(src, importance);
        let error = |e: u8| search::error(Numbers, src, &importance, power(e));
        let mut e = highest;
        for lower in highest.saturating_sub(2)..highest {
            e = if error(lower) < error(e) { lower } else { e };
        }
        Self { e, qs: join_nibbles(&search::quants(Numbers, src, power(e))) }
    }
}

/// [`NUMBERS`] to search a scale for.
#[derive(Clone, Copy)]
struct Numbers;

impl Grid for Numbers {
    const ENDS: [f32; 2] = [-12.0, 12.0];
    const SPACING: f32 = 2.0;

    #[inline(always)]
    fn nearest(self, x: f32) -> u8 {
        let most = x.abs();
        let magnitude = |two: &[i8]| u8::from(most > (f32::from(two[0]) + f32::from(two[1])) / 2.0);
        let q = NUMBERS[..8].windows(2).map(magnitude).sum::<u8>();
        if x < 0.0 { q | 8 } else { q }
    }

    #[inline(always)]
    fn number(self, q: u8) -> f32 {
        f32::from(NUMBERS[usize::from(q)])
    }
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, e] = planes::split(planes);
    let qs = planes::entries(qs);
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        e[i] = block.e;
    }
}
