//! [`Vector`] of eight lanes.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::vector::{Kernel, MAX_LANES, Vector};

/// Eight f32s.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Lanes(__m256);

/// Runs `kernel` with these.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::backend::cpu) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as the caller promises.
    unsafe { kernel.run::<Lanes>() }
}

/// All ones in the first n lanes.
#[inline(always)]
pub(super) unsafe fn first(n: usize) -> __m256i {
    // SAFETY: the callers have AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

// Each function is one instruction or a few; the trait says what their callers promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's promise, thirty times")]
impl Vector for Lanes {
    const LEN: usize = 8;
    const REGISTERS: usize = 16;
    type Ints = __m256i;

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
        unsafe { Self(_mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        unsafe { Self(_mm256_maskload_ps(p, first(n))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        unsafe { _mm256_maskstore_ps(p, first(n), self.0) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self {
        unsafe { Self(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_brain(p: *const u16) -> Self {
        unsafe {
            let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
            Self(_mm256_castsi256_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        unsafe { Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn if_less(self, b: Self, yes: Self, no: Self) -> Self {
        unsafe { Self(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0))) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Self {
        unsafe {
            let exponents = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponents)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { super::sums([self.0])[0] }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn splat_ints(x: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn spread(p: *const u8, stride: usize) -> Option<__m256i> {
        unsafe {
            let at = |i: usize| _mm_loadu_si128(p.add(i * stride).cast());
            let four = |i: usize| {
                let (a, b) = (_mm_unpacklo_epi32(at(i), at(i + 1)), _mm_unpacklo_epi32(at(i + 2), at(i + 3)));
                _mm_unpacklo_epi64(a, b)
            };
            Some(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(4)))
        }
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [__m256i; 4] {
        unsafe {
            // Row i and row i + 4 in the halves of a register, then four by four as in any transposition.
            let pair = |i: usize| {
                let low = _mm256_castsi128_si256(_mm_loadu_si128(rows[i].add(at).cast()));
                _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(rows[i + 4].add(at).cast()))
            };
            let (r0, r1, r2, r3) = (pair(0), pair(1), pair(2), pair(3));
            let (a, b) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
            let (c, d) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
            [
                _mm256_unpacklo_epi64(a, c),
                _mm256_unpackhi_epi64(a, c),
                _mm256_unpacklo_epi64(b, d),
                _mm256_unpackhi_epi64(b, d),
            ]
        }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m256i, n: u32) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right_signed(a: __m256i, n: u32) -> __m256i {
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m256i, n: u32) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn from_ints(a: __m256i) -> Self {
        unsafe { Self(_mm256_cvtepi32_ps(a)) }
    }
    #[inline(always)]
    unsafe fn from_half_bits(a: __m256i) -> Self {
        unsafe {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(low, low));
            Self(_mm256_cvtph_ps(_mm256_castsi256_si128(packed)))
        }
    }
    #[inline(always)]
    unsafe fn from_two_halves(a: __m256i) -> [Self; 2] {
        unsafe {
            // The lower halves of four integers, then the upper ones.
            let sorted = _mm256_setr_epi8(
                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14,
                15,
            );
            let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(a, sorted));
            [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)]
                .map(|half| Self(_mm256_cvtph_ps(half)))
        }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m256i) -> Self {
        unsafe { Self(_mm256_castsi256_ps(a)) }
    }
    #[inline(always)]
    unsafe fn sub_bytes(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup_bytes(table: &[i8; 16], i: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), i) }
    }
}
