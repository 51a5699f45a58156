//! x86-64 with the AVX-512 of Ice Lake (Intel, 2019) and Zen 4 (AMD, 2022): wide registers, products of bytes and of 16-bit
//! integers that add up in 32 bits (VNNI), permutations of bytes (VBMI).

mod few;
mod formats;
mod scales;
mod stream;
pub(in crate::backend::cpu) mod vector;

use std::arch::is_x86_feature_detected as has;
use std::arch::x86_64::*;

pub(super) use self::few::few;
pub(super) use self::stream::scratch_len;
use super::activations::{ActivationRowMut, Line};
use super::avx2;
use super::scales::of_blocks;

/// Whether this processor can run what is here.
pub(in crate::backend::cpu) fn available() -> bool {
    has!("avx512f")
        && has!("avx512bw")
        && has!("avx512dq")
        && has!("avx512vl")
        && has!("avx512vnni")
        && has!("avx512vbmi")
        && super::avx2::available()
}

of_blocks! {
    /// See [`simd::matvec`](super::matvec()): the block formats, one row of x.
    pub(super) fn product = stream::product::<F>, F: formats::Unpack, if available, for "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"
}

/// Fills `out` with the numbers of `x`, in plain order and woven, or in pairs for a row that is not alone.
pub(super) fn round(x: &[f32], mut out: ActivationRowMut<'_>) {
    if !out.alone {
        return avx2::round(x, out);
    }
    avx2::quantize(x, out.reborrow());
    assert!(available(), "the processor was asked before");
    // SAFETY: the processor has the features.
    unsafe { weave(out.q, out.woven) }
}

/// Puts the numbers of two blocks into the order of [`formats`].
#[target_feature(enable = "avx512f")]
fn weave(plain: &[Line], woven: &mut [Line]) {
    // Of pairs of numbers: the first eight of both blocks in turn, and the second eight.
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (plain, woven) in plain.as_chunks::<2>().0.iter().zip(woven.as_chunks_mut::<2>().0) {
        // SAFETY: a line is a register.
        unsafe {
            let [a, b] = [0, 1].map(|i| _mm512_load_si512((&raw const plain[i]).cast()));
            _mm512_store_si512((&raw mut woven[0]).cast(), _mm512_permutex2var_epi32(a, low, b));
            _mm512_store_si512((&raw mut woven[1]).cast(), _mm512_permutex2var_epi32(a, high, b));
        }
    }
}
