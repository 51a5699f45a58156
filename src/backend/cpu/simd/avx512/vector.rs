//! [`Vector`] of sixteen lanes.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::vector::{Kernel, MAX_LANES, Vector};

/// Sixteen f32s.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Lanes(pub(in crate::backend::cpu::simd) __m512);

/// Runs `kernel` with these.
///
/// # Safety
/// [`available`](super::available) said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(in crate::backend::cpu) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as the caller promises.
    unsafe { kernel.run::<Lanes>() }
}

/// A bit for each of the first n lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as u16
}

// Each function is one instruction or a few; the trait says what their callers promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's promise, thirty times")]
impl Vector for Lanes {
    const LEN: usize = 16;
    const REGISTERS: usize = 32;
    type Ints = __m512i;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8, near: bool) {
        unsafe {
            if near {
                _mm_prefetch::<_MM_HINT_T0>(p.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(p.cast());
            }
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(first(n), p)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, first(n), self.0) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self {
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_brain(p: *const u16) -> Self {
        unsafe {
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())));
            Self(_mm512_castsi512_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Self(_mm512_sub_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Self(_mm512_div_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Self(_mm512_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Self(_mm512_min_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        unsafe { Self(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0), no.0, yes.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Self {
        unsafe { Self(_mm512_scalef_ps(_mm512_set1_ps(1.0), self.0)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn splat_ints(x: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn words(rows: &[*const u8; MAX_LANES], at: usize) -> __m512i {
        unsafe {
            let eight = |i: usize| {
                let rows = _mm512_loadu_si512(rows.as_ptr().add(i).cast());
                _mm512_i64gather_epi32::<1>(rows, std::ptr::without_provenance(at))
            };
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(eight(0)), eight(8))
        }
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [__m512i; 4] {
        unsafe {
            // Rows i, i + 4, i + 8 and i + 12 in the quarters of a register, then four by four as in any transposition.
            let four = |i: usize| {
                let v = _mm512_castsi128_si512(_mm_loadu_si128(rows[i].add(at).cast()));
                let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows[i + 4].add(at).cast()));
                let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows[i + 8].add(at).cast()));
                _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows[i + 12].add(at).cast()))
            };
            let (r0, r1, r2, r3) = (four(0), four(1), four(2), four(3));
            let (a, b) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
            let (c, d) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
            [
                _mm512_unpacklo_epi64(a, c),
                _mm512_unpackhi_epi64(a, c),
                _mm512_unpacklo_epi64(b, d),
                _mm512_unpackhi_epi64(b, d),
            ]
        }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right_signed(a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn from_ints(a: __m512i) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(a)) }
    }
    #[inline(always)]
    unsafe fn from_half_bits(a: __m512i) -> Self {
        unsafe { Self(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a))) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m512i) -> Self {
        unsafe { Self(_mm512_castsi512_ps(a)) }
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup_bytes(table: &[i8; 16], i: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), i) }
    }
}
