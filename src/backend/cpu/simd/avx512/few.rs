//! Products of a few rows of x with AVX-512, in pairs of words.

use std::arch::x86_64::*;

use super::dot::multiply_add;
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::Activations;
use crate::backend::cpu::simd::few::words::{self, Words};
use crate::backend::cpu::simd::few::{self, Chunk, Multiply, Part, STRIP};
use crate::backend::cpu::simd::gemm::unpack::Quants;
use crate::backend::cpu::simd::scales::with_block;
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// See [`few::product`]: the block formats.
pub(in super::super) fn few(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    assert!(super::available(), "the processor was asked before");
    // SAFETY: the processor has the features.
    unsafe {
        with_block!(weight.format, B => blocks::<B>(weight, bias, x, y, scratch));
    }
}

/// [`few`] with a block format.
///
/// # Safety
/// [`available`](super::available) said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn blocks<F: Quants>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    // SAFETY: as the caller promises.
    unsafe { few::product::<F, Avx512>(weight, bias, x, y, scratch) }
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
            match x.rows {
                2 => add::<2>(chunk, x, totals),
                3 => add::<3>(chunk, x, totals),
                4 => add::<4>(chunk, x, totals),
                5 => add::<5>(chunk, x, totals),
                6 => add::<6>(chunk, x, totals),
                7 => add::<7>(chunk, x, totals),
                8 => add::<8>(chunk, x, totals),
                rows => unreachable!("{rows} rows together"),
            }
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
