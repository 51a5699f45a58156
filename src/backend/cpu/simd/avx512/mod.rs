//! x86-64 with the AVX-512 of Ice Lake (Intel, 2019) and Zen 4 (AMD, 2022): wide registers, products of bytes and of 16-bit
//! integers that add up in 32 bits (VNNI), permutations of bytes (VBMI).

pub(in crate::backend::cpu) mod vector;

use std::arch::is_x86_feature_detected as has;

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
