//! [`Vector`] of four lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::backend::cpu::simd::vector::{Kernel, MAX_LANES, Vector};

/// Four f32s.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Lanes(float32x4_t);

/// Runs `kernel` with these.
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(in crate::backend::cpu) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as the caller promises.
    unsafe { kernel.run::<Lanes>() }
}

// Each function is one instruction or a few; the trait says what their callers promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's promise, forty times")]
impl Vector for Lanes {
    const LEN: usize = 4;
    const REGISTERS: usize = 32;
    type Ints = uint32x4_t;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8, near: bool) {
        // In assembly since the intrinsic is not stable.
        unsafe {
            if near {
                asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
            } else {
                asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
            }
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(vld1q_f32(p)) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        unsafe {
            let none = vdup_n_f32(0.0);
            Self(match n {
                0 => vdupq_n_f32(0.0),
                1 => vcombine_f32(vld1_lane_f32::<0>(p, none), none),
                2 => vcombine_f32(vld1_f32(p), none),
                3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), none)),
                _ => vld1q_f32(p),
            })
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { vst1q_f32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, self.0),
                2 => vst1_f32(p, vget_low_f32(self.0)),
                3 => {
                    vst1_f32(p, vget_low_f32(self.0));
                    vst1q_lane_f32::<2>(p.add(2), self.0);
                }
                _ => vst1q_f32(p, self.0),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self {
        unsafe { Self(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))) }
    }
    #[inline(always)]
    unsafe fn load_brain(p: *const u16) -> Self {
        unsafe { Self(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p)))) }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16) {
        unsafe { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(self.0))) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        unsafe {
            let four = vreinterpret_s8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
            Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))))
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Self(vaddq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Self(vsubq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Self(vmulq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Self(vdivq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self(vfmaq_f32(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Self(vmaxq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Self(vminq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        unsafe { Self(vbslq_f32(vcltq_f32(self.0, b.0), yes.0, no.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self(vrndnq_f32(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Self {
        unsafe {
            let exponents = vaddq_s32(vcvtnq_s32_f32(self.0), vdupq_n_s32(127));
            Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponents)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn splat_ints(x: u32) -> uint32x4_t {
        unsafe { vdupq_n_u32(x) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u32) -> uint32x4_t {
        unsafe { vld1q_u32(p) }
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [uint32x4_t; 4] {
        unsafe {
            let row = |i: usize| vreinterpretq_u32_u8(vld1q_u8(rows[i].add(at)));
            let pairs = |a, b| [vtrn1q_u32(a, b), vtrn2q_u32(a, b)].map(|v| vreinterpretq_u64_u32(v));
            let ([a, b], [c, d]) = (pairs(row(0), row(1)), pairs(row(2), row(3)));
            [vtrn1q_u64(a, c), vtrn1q_u64(b, d), vtrn2q_u64(a, c), vtrn2q_u64(b, d)].map(|v| vreinterpretq_u32_u64(v))
        }
    }
    #[inline(always)]
    unsafe fn shift_right(a: uint32x4_t, n: u32) -> uint32x4_t {
        unsafe { vshlq_u32(a, vdupq_n_s32(-(n as i32))) }
    }
    #[inline(always)]
    unsafe fn shift_right_signed(a: uint32x4_t, n: u32) -> uint32x4_t {
        unsafe { vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), vdupq_n_s32(-(n as i32)))) }
    }
    #[inline(always)]
    unsafe fn shift_left(a: uint32x4_t, n: u32) -> uint32x4_t {
        unsafe { vshlq_u32(a, vdupq_n_s32(n as i32)) }
    }
    #[inline(always)]
    unsafe fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vandq_u32(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vorrq_u32(a, b) }
    }
    #[inline(always)]
    unsafe fn from_ints(a: uint32x4_t) -> Self {
        unsafe { Self(vcvtq_f32_s32(vreinterpretq_s32_u32(a))) }
    }
    #[inline(always)]
    unsafe fn from_half_bits(a: uint32x4_t) -> Self {
        unsafe { Self(vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(a)))) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: uint32x4_t) -> Self {
        unsafe { Self(vreinterpretq_f32_u32(a)) }
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b))) }
    }
    #[inline(always)]
    unsafe fn lookup_bytes(table: &[i8; 16], i: uint32x4_t) -> uint32x4_t {
        unsafe { vreinterpretq_u32_s8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_u32(i))) }
    }
}
