//! Products of a few rows of x with AVX2, in pairs of words.

use std::arch::x86_64::*;

use super::vector::Lanes;
use crate::backend::cpu::simd::activations::Line;
use crate::backend::cpu::simd::few::words::{self, Words};
use crate::backend::cpu::simd::few::{self, Chunk, Multiply, Part, STRIP, with_rows};
use crate::backend::cpu::simd::gemm::unpack::Quants;
use crate::backend::cpu::simd::scales::of_blocks;

of_blocks! {
    /// See [`few::product`]: the block formats.
    pub(in super::super) fn few = few::product::<F, Avx2>, F: Quants, if super::available, for "avx2,fma,f16c"
}

/// Products with AVX2.
struct Avx2;

// SAFETY: these are for AVX2.
unsafe impl Multiply for Avx2 {
    type Vector = Lanes;
    const TOGETHER: usize = 4;

    fn new(_: usize, _: usize) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn put(chunk: &mut Chunk, i: usize, v: usize, q: __m256i) {
        // SAFETY: as the caller promises.
        unsafe { words::put::<Lanes>(chunk, i, v, q) }
    }

    #[inline(always)]
    unsafe fn add(&self, chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
        // SAFETY: as the caller promises.
        unsafe {
            with_rows!(x.rows, T in [2, 3, 4] => add::<T>(chunk, x, totals));
        }
    }
}

/// [`words::add`] with AVX2.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and `x` is of T rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn add<const T: usize>(chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
    // SAFETY: as the caller promises.
    unsafe { words::add::<Lanes, T>(chunk, x, totals) }
}

// SAFETY: these are instructions of AVX2.
unsafe impl Words for Lanes {
    #[inline(always)]
    unsafe fn pairs(bytes: __m256i) -> [__m256i; 2] {
        // SAFETY: as the caller promises.
        unsafe { [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)] }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }
}

/// Puts each four numbers into the order of [`words`]: the first and the third, the second and the fourth.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn pair(plain: &[Line], pairs: &mut [Line]) {
    for (plain, pairs) in plain.iter().zip(pairs) {
        for i in 0..2 {
            // SAFETY: a line is two registers.
            unsafe {
                let q = _mm256_load_si256(plain.0.as_ptr().cast::<__m256i>().add(i));
                let q = _mm256_shufflehi_epi16::<0b11_01_10_00>(_mm256_shufflelo_epi16::<0b11_01_10_00>(q));
                _mm256_store_si256(pairs.0.as_mut_ptr().cast::<__m256i>().add(i), q);
            }
        }
    }
}
