//! F32, F16 and BF16: one number a block, so that any count of them is whole blocks.
//!
//! The GPU reads them by groups of 32 like everything else; the planes are the bytes of the file.

use bytemuck::{Pod, Zeroable};

use super::block::{self, Half};
use super::{Format, Plane, planes};

/// IEEE 754 binary32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Single(pub [u8; 4]);

/// bfloat16: the upper half of an IEEE 754 binary32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Brain(pub [u8; 2]);

const _: () = assert!(size_of::<Single>() == 4 && align_of::<Single>() == 1);
const _: () = assert!(size_of::<Brain>() == 2 && align_of::<Brain>() == 1);

pub(super) static F32: Format = Format {
    id: 0,
    name: "F32",
    block_len: 1,
    block_bytes: 4,
    dequantize: block::dequantize::<Single, 1>,
    quantize: block::quantize::<Single, 1>,
    planes: &[Plane { name: "w", block_bytes: 4 }],
    pack: planes::whole,
    shader: include_str!("../../shaders/quant/f32.wgsl"),
};

pub(super) static F16: Format = Format {
    id: 1,
    name: "F16",
    block_len: 1,
    block_bytes: 2,
    dequantize: block::dequantize::<Half, 1>,
    quantize: block::quantize::<Half, 1>,
    planes: &[Plane { name: "w", block_bytes: 2 }],
    pack: planes::whole,
    shader: include_str!("../../shaders/quant/f16.wgsl"),
};

pub(super) static BF16: Format = Format {
    id: 30,
    name: "BF16",
    block_len: 1,
    block_bytes: 2,
    dequantize: block::dequantize::<Brain, 1>,
    quantize: block::quantize::<Brain, 1>,
    planes: &[Plane { name: "w", block_bytes: 2 }],
    pack: planes::whole,
    shader: include_str!("../../shaders/quant/bf16.wgsl"),
};

impl block::Block<1> for Single {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; 1]) {
        dst[0] = f32::from_le_bytes(self.0);
    }

    #[inline(always)]
    fn quantize(src: &[f32; 1], _: Option<&[f32; 1]>) -> Self {
        Self(src[0].to_le_bytes())
    }
}

impl block::Block<1> for Half {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; 1]) {
        dst[0] = self.to_f32();
    }

    #[inline(always)]
    fn quantize(src: &[f32; 1], _: Option<&[f32; 1]>) -> Self {
        Self::from_f32(src[0])
    }
}

impl block::Block<1> for Brain {
    #[inline(always)]
    fn dequantize(&self, dst: &mut [f32; 1]) {
        dst[0] = f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16);
    }

    #[inline(always)]
    fn quantize(src: &[f32; 1], _: Option<&[f32; 1]>) -> Self {
        Self(half::bf16::from_f32(src[0]).to_le_bytes())
    }
}
