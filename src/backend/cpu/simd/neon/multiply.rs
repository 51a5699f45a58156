//! What the instruction sets multiply with: 8-bit weights and 16-bit activations, exactly.
//!
//! With products of bytes an activation is 256 · high + low, two signed bytes. Both come in halves of a block, 16 numbers or
//! 32 bytes, in the [`Order`] that takes the fewest instructions.

use std::arch::aarch64::*;
use std::arch::asm;

use super::formats::{Bytes, Unpack};
use super::{Order, dot};
use crate::backend::cpu::simd::activations::ActivationRow;
use crate::backend::cpu::simd::matvec::WeightRow;

/// Sixteen activations.
pub(super) type Half = [uint8x16_t; 2];

/// How `R` weight rows are multiplied together.
///
/// # Safety
/// `multiply` works wherever [`Isa::is_available`](crate::backend::cpu::Isa::is_available) says so.
pub(super) unsafe trait Multiply<const R: usize> {
    /// Where the bytes of activations are.
    const ORDER: Order;

    /// Products of halves of a block of `R` rows, added up in four lanes: at most 2³⁰.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn multiply<const H: usize>(q: [Bytes<R>; H], x: [Half; H]) -> int32x4_t;

    /// The sum of each row, of such lanes.
    ///
    /// # Safety
    /// As for `multiply`.
    unsafe fn sums(lanes: float32x4_t) -> [f32; R];

    /// [`dot::chunks`], compiled for the instruction set as a function of its own: it is called from many places, and long.
    ///
    /// # Safety
    /// As for `multiply`, and what `chunks` itself asks for.
    unsafe fn chunks<F: Unpack, const U: usize, const T: usize>(
        units: [[WeightRow; R]; U],
        n: usize,
        x: [ActivationRow<'_>; T],
    ) -> [[float32x4_t; T]; U];
}

/// [`Multiply::chunks`] with an instruction set, for so many rows.
macro_rules! chunks_with {
    ($features:literal, $rows:literal) => {
        #[inline(never)]
        #[target_feature(enable = $features)]
        unsafe fn chunks<F: Unpack, const U: usize, const T: usize>(
            units: [[WeightRow; $rows]; U],
            n: usize,
            x: [ActivationRow<'_>; T],
        ) -> [[float32x4_t; T]; U] {
            // SAFETY: as the caller promises.
            unsafe { dot::chunks::<F, Self, U, T, $rows>(units, n, x) }
        }
    };
}

/// NEON as all processors of this architecture have it: products of 16-bit integers.
pub(super) struct Neon;

// SAFETY: nothing but NEON.
unsafe impl Multiply<1> for Neon {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn multiply<const H: usize>(q: [Bytes<1>; H], x: [Half; H]) -> int32x4_t {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for h in 0..H {
                let q = vreinterpretq_s8_u8(q[h].0[0]);
                let x = x[h].map(|x| vreinterpretq_s16_u8(x));
                for (q, x) in [vmovl_s8(vget_low_s8(q)), vmovl_high_s8(q)].into_iter().zip(x) {
                    sum = widening(sum, q, x);
                }
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn sums(lanes: float32x4_t) -> [f32; 1] {
        // SAFETY: as the caller promises.
        unsafe { [vaddvq_f32(lanes)] }
    }

    chunks_with!("neon", 1);
}

/// Armv8.2's `dotprod`: each lane adds the products of four bytes.
pub(super) struct NeonDot;

// SAFETY: nothing but `dotprod`.
unsafe impl Multiply<1> for NeonDot {
    const ORDER: Order = Order::Halves;

    #[inline(always)]
    unsafe fn multiply<const H: usize>(q: [Bytes<1>; H], x: [Half; H]) -> int32x4_t {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for h in 0..H {
                sum = dot(sum, q[h].0[0], x[h][0]);
            }
            sum = vshlq_n_s32::<8>(sum);
            for h in 0..H {
                sum = dot(sum, q[h].0[0], x[h][1]);
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn sums(lanes: float32x4_t) -> [f32; 1] {
        // SAFETY: as the caller promises.
        unsafe { [vaddvq_f32(lanes)] }
    }

    chunks_with!("neon,dotprod", 1);
}

/// Armv8.6's `i8mm`: 2×8 bytes times 8×2. Two rows of weights are one matrix, high and low bytes the other.
pub(super) struct NeonI8mm;

// SAFETY: nothing but `i8mm`.
unsafe impl Multiply<2> for NeonI8mm {
    const ORDER: Order = Order::Eights;

    /// Lanes: the first row with high bytes, with low ones, then the second row.
    #[inline(always)]
    unsafe fn multiply<const H: usize>(q: [Bytes<2>; H], x: [Half; H]) -> int32x4_t {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for h in 0..H {
                sum = matrix(sum, q[h].0[0], x[h][0]);
                sum = matrix(sum, q[h].0[1], x[h][1]);
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn sums(lanes: float32x4_t) -> [f32; 2] {
        // SAFETY: as the caller promises.
        unsafe {
            let (high, low) = (vuzp1q_f32(lanes, lanes), vuzp2q_f32(lanes, lanes));
            let sums = vfmaq_n_f32(low, high, 256.0);
            [vgetq_lane_f32::<0>(sums), vgetq_lane_f32::<1>(sums)]
        }
    }

    chunks_with!("neon,i8mm", 2);
}

/// `sum` and in each of its lanes two products of signed 16-bit integers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn widening(mut sum: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
    // In assembly since the compiler widens all numbers first where it knows that some are not negative, and takes upper halves
    // out of registers.
    // SAFETY: the processor has the instructions.
    unsafe {
        asm!("smlal {sum:v}.4s, {a:v}.4h, {b:v}.4h", "smlal2 {sum:v}.4s, {a:v}.8h, {b:v}.8h",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum` and in each of its lanes the products of four signed bytes.
///
/// # Safety
/// The processor has `dotprod`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot(mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // In assembly since the intrinsic is not stable, as below.
    // SAFETY: the processor has the instruction.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum` and the products of two times eight signed bytes with two times eight, `[2, 2]`.
///
/// # Safety
/// The processor has `i8mm`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn matrix(mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: the processor has the instruction.
    unsafe {
        asm!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
