//! Products of a few rows of x with AVX-512, in pairs of words.

use std::arch::x86_64::*;

use super::stream::multiply_add;
use super::vector::Lanes;
use crate::backend::cpu::simd::few::words::{self, Words};
use crate::backend::cpu::simd::few::{self, Chunk, Multiply, Part, STRIP, with_rows};
use crate::backend::cpu::simd::gemm::unpack::Quants;
use crate::backend::cpu::simd::scales::of_blocks;

of_blocks! {
    /// See [`few::product`]: the block formats.
    pub(in super::super) fn few = few::product::<F, Avx512>, F: Quants, if super::available, for "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"
}

/// Products with AVX-512.
struct Avx512;

// SAFETY: these are for AVX-512.
unsafe impl Multiply for Avx512 {
    type Vector = Lanes;
    const TOGETHER: usize = 8;

    fn new(_: usize, _: usize) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn put(chunk: &mut Chunk, i: usize, v: usize, q: __m512i) {
        // SAFETY: as the caller promises.
        unsafe { words::put::<Lanes>(chunk, i, v, q) }
    }

    #[inline(always)]
    unsafe fn add(&self, chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
        // SAFETY: as the caller promises.
        unsafe {
            with_rows!(x.rows, T in [2, 3, 4, 5, 6, 7, 8] => add::<T>(chunk, x, totals));
        }
    }
}

/// [`words::add`] with AVX-512.
///
/// # Safety
/// [`available`](super::available) said yes, and `x` is of T rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
#[inline(never)]
unsafe fn add<const T: usize>(chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
    // SAFETY: as the caller promises.
    unsafe { words::add::<Lanes, T>(chunk, x, totals) }
}

// SAFETY: these are instructions of AVX-512.
unsafe impl Words for Lanes {
    #[inline(always)]
    unsafe fn pairs(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: as the caller promises.
        unsafe { [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes)] }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe { multiply_add(sum, a, b) }
    }
}
