//! x86-64 with AVX2, FMA and F16C: every such processor since 2013 (Intel) and 2015 (AMD).
//!
//! Functions that use intrinsics are `#[inline(always)]` and unsafe: they become part of an entry point that is
//! compiled for these features and reached only where [`available`] says yes.

mod dot;
mod few;
mod formats;
mod quantize;
pub(in crate::backend::cpu) mod vector;

use std::arch::x86_64::*;

use self::dot::Avx2;
pub(super) use self::few::{few, pair};
pub(super) use self::formats::q3_k_scales;
pub(super) use self::quantize::quantize;
use super::activations::ActivationRowMut;
use super::matvec;
use super::scales::of_blocks;

/// Whether this processor can run what is here.
pub(in crate::backend::cpu) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

of_blocks! {
    /// See [`simd::matvec`](super::matvec()): the block formats, one row of x.
    pub(super) fn product = matvec::matvec::<F, Avx2>, F: formats::Unpack, if available, for "avx2,fma,f16c"
}

/// Fills `out` with the numbers of `x`, in plain order and in pairs.
pub(super) fn round(x: &[f32], mut out: ActivationRowMut<'_>) {
    quantize(x, out.reborrow());
    assert!(available(), "the processor was asked before");
    // SAFETY: the processor has the features.
    unsafe { pair(out.q, out.woven) }
}

/// The sum of each vector's eight numbers: neighbours first, then pairs, then halves.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sums<const N: usize>(v: [__m256; N]) -> [f32; N] {
    let mut out = [0.0; N];
    // SAFETY: as the caller promises; four numbers are written to four.
    unsafe {
        for (v, out) in v.chunks(4).zip(out.chunks_mut(4)) {
            if let (&[a, b, c, d], [first, ..]) = (v, &mut *out) {
                _mm_storeu_ps(first, halves_added(_mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d))));
            } else {
                for (&v, out) in v.iter().zip(out) {
                    let pairs = _mm256_hadd_ps(v, v);
                    *out = _mm_cvtss_f32(halves_added(_mm256_hadd_ps(pairs, pairs)));
                }
            }
        }
    }
    out
}

#[inline(always)]
unsafe fn halves_added(v: __m256) -> __m128 {
    // SAFETY: the callers have AVX2.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}
