//! IQ4_NL: 32 weights of 4 bits and one scale, 4.5 bits a weight; the numbers that quants stand for lie closer together
//! near zero, where most weights are. `w = d · NUMBERS[q]`.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::q4_0::{join_nibbles, nibbles};
use super::search::{self, Grid};
use super::{Format, Plane, planes};

/// Weights in a block.
pub const LEN: usize = 32;

/// What quants stand for, in units of the scale.
pub const NUMBERS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// ```text
/// byte 0     2                        18
///      d f16 qs: byte i has
///            bits 0-3  q of weight i
///            bits 4-7  q of weight i + 16
/// ```
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: Half,
    /// Nibbles.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == 18 && align_of::<Block>() == 1);

pub(super) static FORMAT: Format = Format {
    id: 20,
    name: "IQ4_NL",
    block_len: LEN,
    block_bytes: size_of::<Block>(),
    dequantize: block::dequantize::<Block, LEN>,
    quantize: block::quantize::<Block, LEN>,
    planes: &[Plane { name: "qs", block_bytes: 16 }, Plane { name: "d", block_bytes: 2 }],
    pack,
    shader: include_str!("../../shaders/quant/iq4_nl.wgsl"),
};

impl block::Block<LEN> for Block {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; LEN]) {
        let d = self.d.to_f32();
        for (w, q) in dst.iter_mut().zip(nibbles(&self.qs)) {
            *w = d * f32::from(NUMBERS[usize::from(q)]);
        }
    }

    #[inline(always)]
    fn quantize(src: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let (d, q) = search::block(Numbers, src, importance);
        Self { d, qs: join_nibbles(&q) }
    }
}

/// [`NUMBERS`] to search a scale for.
#[derive(Clone, Copy)]
pub(super) struct Numbers;

impl Grid for Numbers {
    const ENDS: [f32; 2] = [-127.0, 113.0];
    const SPACING: f32 = 16.0;

    #[inline(always)]
    fn nearest(self, x: f32) -> u8 {
        // Numbers beyond the middle between two neighbours: as many as there are below the nearest.
        NUMBERS.windows(2).map(|two| u8::from(x > middle(two))).sum()
    }

    #[inline(always)]
    fn number(self, q: u8) -> f32 {
        f32::from(NUMBERS[usize::from(q)])
    }

    #[inline(always)]
    fn snap(self, x: f32) -> f32 {
        let next = |number: f32, two: &[i8]| if x > middle(two) { f32::from(two[1]) } else { number };
        NUMBERS.windows(2).fold(f32::from(NUMBERS[0]), next)
    }
}

/// Between two numbers.
#[inline(always)]
fn middle(two: &[i8]) -> f32 {
    (f32::from(two[0]) + f32::from(two[1])) / 2.0
}

fn pack(src: &[u8], planes: &mut [&mut [u8]]) {
    let [qs, d] = planes::split(planes);
    let (qs, d) = (planes::entries(qs), planes::entries(d));
    for (i, block) in block::blocks::<Block>(src).iter().enumerate() {
        qs[i] = planes::nibbles(&block.qs);
        d[i] = block.d;
    }
}
