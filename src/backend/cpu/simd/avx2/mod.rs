//! x86-64 with AVX2, FMA and F16C: every such processor since 2013 (Intel) and 2015 (AMD).
//!
//! Functions that use intrinsics are `#[inline(always)]` and unsafe: they become part of an entry point that is
//! compiled for these features and reached only where [`available`] says yes.

mod dot;
mod floats;
mod formats;
pub(in crate::backend::cpu) mod matmul;
mod panel;
mod quantize;
pub(in crate::backend::cpu) mod vector;

use std::arch::x86_64::*;

/// Whether this processor can run what is here.
pub(in crate::backend::cpu) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The sum of the eight numbers: neighbours first, then pairs, then halves.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let pairs = _mm256_hadd_ps(v, v);
        let halves = _mm256_hadd_ps(pairs, pairs);
        _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)))
    }
}

/// [`sum`] of four vectors.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sums([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: as the caller promises; `out` has room for four numbers.
    unsafe {
        let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        out
    }
}
