//! 64-bit Arm: NEON, which all of these processors have, and its products of bytes, which those since about 2018 (`dotprod`)
//! and 2021 (`i8mm`) have.

mod dot;
mod formats;
mod multiply;
mod quantize;
pub(in crate::backend::cpu) mod vector;

use std::arch::is_aarch64_feature_detected as has;

use self::dot::Products;
use self::multiply::{Neon, NeonDot, NeonI8mm};
use super::activations::{ActivationRowMut, Activations};
use super::scales::with_block;
use super::{Isa, matvec};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Where the two bytes of 16 activations are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As 16-bit integers.
    Plain,
    /// 16 high bytes, then 16 low ones.
    Halves,
    /// Eight high bytes and eight low ones, then the other eight of both.
    Eights,
}

/// Whether this processor can run what is here for `isa`.
pub(super) fn available(isa: Isa) -> bool {
    match isa {
        Isa::Neon => has!("neon"),
        Isa::NeonDot => has!("neon") && has!("dotprod"),
        Isa::NeonI8mm => has!("neon") && has!("i8mm"),
        _ => false,
    }
}

/// Rounds `x` for [`product`].
pub(super) fn quantize(isa: Isa, x: &[f32], out: ActivationRowMut<'_>) {
    let order = match isa {
        Isa::NeonI8mm => Order::Eights,
        Isa::NeonDot => Order::Halves,
        _ => Order::Plain,
    };
    quantize::quantize(x, out, order);
}

/// See [`simd::matvec`](super::matvec()): with a block format.
pub(super) fn product(
    isa: Isa,
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    assert!(available(isa), "the processor was asked before");
    let blocks = Blocks { weight, bias, x, y, scratch };
    with_block!(weight.format, B => blocks.run::<B>(isa));
}

/// A product with a block format.
struct Blocks<'a, 'y> {
    weight: &'a Weight,
    bias: Option<&'a [f32]>,
    x: &'a Activations,
    y: &'a mut Columns<'y>,
    scratch: &'a mut [f32],
}

impl Blocks<'_, '_> {
    fn run<F: formats::Unpack>(self, isa: Isa) {
        // SAFETY: `product` asked whether the processor has the instruction set.
        unsafe {
            match isa {
                Isa::NeonI8mm => self.by_i8mm::<F>(),
                Isa::NeonDot => self.by_dotprod::<F>(),
                _ => self.by_neon::<F>(),
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn by_neon<F: formats::Unpack>(self) {
        // SAFETY: the processor has the instruction set, here and below.
        unsafe { matvec::matvec::<F, Products<Neon, 1>>(self.weight, self.bias, self.x, self.y, self.scratch) }
    }

    #[target_feature(enable = "neon,dotprod")]
    unsafe fn by_dotprod<F: formats::Unpack>(self) {
        // SAFETY: as above.
        unsafe { matvec::matvec::<F, Products<NeonDot, 1>>(self.weight, self.bias, self.x, self.y, self.scratch) }
    }

    #[target_feature(enable = "neon,i8mm")]
    unsafe fn by_i8mm<F: formats::Unpack>(self) {
        // SAFETY: as above.
        unsafe { matvec::matvec::<F, Products<NeonI8mm, 2>>(self.weight, self.bias, self.x, self.y, self.scratch) }
    }
}
