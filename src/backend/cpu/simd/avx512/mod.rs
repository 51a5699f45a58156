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
use self::formats::Order;
pub(super) use self::stream::scratch_len;
use super::activations::{ActivationRowMut, CHUNK_BLOCKS, Line};
use super::avx2;
use super::scales::{of_blocks, with_block};
use crate::quant::Format;

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

/// Fills `out` with the numbers of `x`, in plain order and in digits; or in pairs for a row that is not alone.
pub(super) fn round(x: &[f32], mut out: ActivationRowMut<'_>) {
    if !out.alone {
        return avx2::round(x, out);
    }
    avx2::quantize(x, out.reborrow());
    assert!(available(), "the processor was asked before");
    // SAFETY: the processor has the features.
    unsafe { split(out.q, out.digits, out.left_out) }
}

/// The bit of the order in which a format wants digits.
pub(super) fn order(format: &Format) -> u8 {
    with_block!(format, B => 1 << <B as formats::Unpack>::ORDER as u8)
}

/// Puts the digits of a row's numbers into each of the orders of [`formats`] that is not left out, and zeros where a chunk is not whole.
#[target_feature(enable = "avx512f,avx512bw")]
fn split(plain: &[Line], digits: &mut [Line], left_out: u8) {
    let n_lines = digits.len() / Order::ALL.len();
    assert!(plain.len().next_multiple_of(CHUNK_BLOCKS) == n_lines, "lines of whole chunks");
    for (c, plain) in plain.chunks(CHUNK_BLOCKS).enumerate() {
        // The upper and the lower digits, in `Order::Plain`.
        let mut registers = [[_mm512_setzero_si512(); 4]; 2];
        for (i, pair) in plain.chunks(2).enumerate() {
            let mut halves = [[_mm256_setzero_si256(); 2]; 2];
            for (b, line) in pair.iter().enumerate() {
                // SAFETY: a line is a register.
                let x = unsafe { _mm512_load_si512((&raw const *line).cast()) };
                let upper = _mm512_srai_epi16::<8>(_mm512_add_epi16(x, _mm512_set1_epi16(128)));
                (halves[0][b], halves[1][b]) = (_mm512_cvtepi16_epi8(upper), _mm512_cvtepi16_epi8(x));
            }
            for (registers, [a, b]) in registers.iter_mut().zip(halves) {
                registers[i] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            }
        }
        for order in Order::ALL.into_iter().filter(|&order| left_out >> order as u8 & 1 == 0) {
            let lines = &mut digits[order as usize * n_lines + CHUNK_BLOCKS * c..][..CHUNK_BLOCKS];
            for (register, digit) in (0..4).flat_map(|register| [(register, 0), (register, 1)]) {
                let ([a, b], index) = &const { sources() }[order as usize][register];
                let line = &raw mut lines[register / 2 * 4 + 2 * digit + register % 2];
                // SAFETY: eight numbers are a register, and so is a line.
                unsafe {
                    let index = _mm512_loadu_si512(index.as_ptr().cast());
                    let bytes = _mm512_permutex2var_epi64(registers[digit][*a], index, registers[digit][*b]);
                    _mm512_store_si512(line.cast(), bytes);
                }
            }
        }
    }
}

/// [`Order::sources`] for each order and register.
const fn sources() -> [[([usize; 2], [u64; 8]); 4]; 4] {
    let mut all = [[([0; 2], [0; 8]); 4]; 4];
    let mut i = 0;
    while i < 16 {
        all[i / 4][i % 4] = Order::ALL[i / 4].sources(i % 4);
        i += 1;
    }
    all
}
