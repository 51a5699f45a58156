//! The block formats as 16-bit integers in the order of their weights: all that a new format has to say here.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::backend::cpu::simd::scales::BlockScales;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// How to unpack a format.
///
/// # Safety
/// `quants` reads nothing beyond the group.
pub(super) unsafe trait Unpack: BlockScales {
    /// Block `j` of the group at `p`: 16 weights, then the other 16. Their magnitude is at most 4,096.
    ///
    /// # Safety
    /// The processor has AVX2, the group can be read, and j is below `GROUP`.
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2];

    /// Blocks `j` and `j + 1` of the group at `p`, j even; with groups of one block, the one there and the next.
    ///
    /// # Safety
    /// As for `quants`.
    #[inline(always)]
    unsafe fn two(p: *const u8, j: usize) -> [[__m256i; 2]; 2] {
        // SAFETY: as the caller promises.
        unsafe {
            if Self::GROUP == 1 {
                [Self::quants(p, 0), Self::quants(p.add(Self::GROUP_BYTES), 0)]
            } else {
                [Self::quants(p, j), Self::quants(p, j + 1)]
            }
        }
    }
}

/// Sixteen bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes(p: *const u8) -> __m256i {
    let v: __m256i;
    // In assembly since the compiler would rather widen last, which is once for each nibble.
    // SAFETY: the callers have 16 bytes there, and AVX2.
    unsafe {
        asm!("vpmovzxbw {v}, xmmword ptr [{p}]", v = out(ymm_reg) v, p = in(reg) p,
            options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// The lower nibbles of sixteen bytes, and the upper ones.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> [__m256i; 2] {
    // SAFETY: as for `bytes`.
    unsafe {
        let v = bytes(p);
        [_mm256_and_si256(v, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(v)]
    }
}

/// All ones for each of the sixteen bits at `p` that is 0.
#[inline(always)]
unsafe fn zero_bits(p: *const u8) -> __m256i {
    // SAFETY: the callers have two bytes there, and AVX2.
    unsafe {
        let bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
        let bits = _mm256_set1_epi16(p.cast::<i16>().read_unaligned());
        _mm256_cmpeq_epi16(_mm256_and_si256(bits, bit), _mm256_setzero_si256())
    }
}

// SAFETY: the offsets are those of the block struct that is named; so it is for all that follow.
unsafe impl Unpack for q4_0::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { nibbles(p.add(2)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_1::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: the nibbles are 16 bytes after scale and offset.
        unsafe { nibbles(p.add(4)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_0::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: four bytes of fifth bits are after the scale, then 16 of nibbles.
        unsafe {
            let [low, high] = nibbles(p.add(6));
            // q - 16: without its fifth bit a nibble has all bits above it set.
            let minus = |bits| _mm256_slli_epi16::<4>(bits);
            [_mm256_or_si256(low, minus(zero_bits(p.add(2)))), _mm256_or_si256(high, minus(zero_bits(p.add(4))))]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_1::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: four bytes of fifth bits are after scale and offset, then 16 of nibbles.
        unsafe {
            let [low, high] = nibbles(p.add(8));
            let fifths = |bits| _mm256_andnot_si256(bits, _mm256_set1_epi16(16));
            [_mm256_or_si256(low, fifths(zero_bits(p.add(4)))), _mm256_or_si256(high, fifths(zero_bits(p.add(6))))]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q8_0::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: 32 bytes of quants are after the scale.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.add(2).cast()), _mm_loadu_si128(p.add(18).cast()));
            [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_k::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        // SAFETY: two blocks share 32 bytes of nibbles; these are after the head.
        unsafe {
            let p = p.add(16 + j / 2 * 32);
            [nibbles(p)[j % 2], nibbles(p.add(16))[j % 2]]
        }
    }

    #[inline(always)]
    unsafe fn two(p: *const u8, j: usize) -> [[__m256i; 2]; 2] {
        // SAFETY: as above.
        unsafe { of_halves(nibbles(p.add(16 + j / 2 * 32)), nibbles(p.add(32 + j / 2 * 32))) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_k::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        // SAFETY: 32 bytes with a fifth bit for each block in them are after the head, then nibbles as in Q4_K.
        unsafe {
            let mut q = [_mm256_setzero_si256(); 2];
            for (s, q) in q.iter_mut().enumerate() {
                let nibble = nibbles(p.add(48 + j / 2 * 32 + 16 * s))[j % 2];
                *q = with_bit(nibble, bytes(p.add(16 + 16 * s)), j);
            }
            q
        }
    }

    #[inline(always)]
    unsafe fn two(p: *const u8, j: usize) -> [[__m256i; 2]; 2] {
        // SAFETY: as above.
        unsafe {
            let nibbles = [nibbles(p.add(48 + j / 2 * 32)), nibbles(p.add(64 + j / 2 * 32))];
            let fifths = [bytes(p.add(16)), bytes(p.add(32))];
            let mut blocks = [[_mm256_setzero_si256(); 2]; 2];
            for (i, block) in blocks.iter_mut().enumerate() {
                for s in 0..2 {
                    block[s] = with_bit(nibbles[s][i], fifths[s], j + i);
                }
            }
            blocks
        }
    }
}

/// Two blocks, of which the first and the second half are given.
#[inline(always)]
fn of_halves(first: [__m256i; 2], second: [__m256i; 2]) -> [[__m256i; 2]; 2] {
    [[first[0], second[0]], [first[1], second[1]]]
}

/// `q` with bit `bit` of `bits` as its fifth.
#[inline(always)]
unsafe fn with_bit(q: __m256i, bits: __m256i, bit: usize) -> __m256i {
    // SAFETY: the callers have AVX2.
    unsafe { _mm256_or_si256(q, _mm256_and_si256(shifted::<4>(bits, bit), _mm256_set1_epi16(16))) }
}

/// `v` with bit `bit` moved to bit `TO`. The shift is by a constant once loops over blocks are unrolled.
#[inline(always)]
unsafe fn shifted<const TO: usize>(v: __m256i, bit: usize) -> __m256i {
    // SAFETY: the callers have AVX2.
    unsafe {
        if bit <= TO {
            _mm256_sll_epi16(v, _mm_cvtsi32_si128((TO - bit) as i32))
        } else {
            _mm256_srl_epi16(v, _mm_cvtsi32_si128((bit - TO) as i32))
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q6_k::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        let (h, k) = (j / 4, j % 4);
        // SAFETY: `ql` is at the start, `qh` after 128 bytes and `scales` after 192, as the struct has them.
        unsafe {
            // Bits come from the bytes of a word, since nothing moves between them that is not masked away.
            let nibble = shifted::<0>(_mm256_loadu_si256(p.add(64 * h + 32 * (k % 2)).cast()), k / 2 * 4);
            let upper = shifted::<4>(_mm256_loadu_si256(p.add(128 + 32 * h).cast()), 2 * k);
            let low = _mm256_and_si256(nibble, _mm256_set1_epi8(15));
            let unsigned = _mm256_or_si256(low, _mm256_and_si256(upper, _mm256_set1_epi8(48)));
            // At most 32 · 128 = 4,096.
            scaled(_mm256_sub_epi8(unsigned, _mm256_set1_epi8(32)), _mm_loadu_si128(p.add(192).cast()), j)
        }
    }
}

/// The numbers that nibbles of 16 bytes stand for: those of the lower ones, and of the upper ones.
#[inline(always)]
unsafe fn numbers(p: *const u8, table: &[i8; 16]) -> [__m256i; 2] {
    // SAFETY: the callers have 16 bytes there, and AVX2.
    unsafe {
        let (bytes, low) = (_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
        let table = _mm_loadu_si128(table.as_ptr().cast());
        let of = |nibbles| _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(nibbles, low)));
        [of(bytes), of(_mm_srli_epi16::<4>(bytes))]
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_nl::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { numbers(p.add(2), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_xs::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        // SAFETY: 16 bytes of nibbles for each block are after the head.
        unsafe { numbers(p.add(8 + 16 * j), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for mxfp4::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m256i; 2] {
        // SAFETY: the nibbles are 16 bytes after the exponent.
        unsafe { numbers(p.add(1), &mxfp4::NUMBERS) }
    }
}

/// Block j's part of `q`, signed bytes, each half times its own of the sixteen signed bytes `scales`.
#[inline(always)]
unsafe fn scaled(q: __m256i, scales: __m128i, j: usize) -> [__m256i; 2] {
    // SAFETY: the callers have AVX2.
    unsafe {
        let scale = |s: usize| _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, _mm_set1_epi8((2 * j + s) as i8)));
        let (first, second) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
        [
            _mm256_mullo_epi16(_mm256_cvtepi8_epi16(first), scale(0)),
            _mm256_mullo_epi16(_mm256_cvtepi8_epi16(second), scale(1)),
        ]
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q2_k::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        let (h, k) = (j / 4, j % 4);
        // SAFETY: scales are at the start, 64 bytes of quants after them, of which a half of the blocks shares 32.
        unsafe {
            let q = shifted::<0>(_mm256_loadu_si256(p.add(16 + 32 * h).cast()), 2 * k);
            let scales = _mm_and_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            // At most 3 · 15.
            scaled(_mm256_and_si256(q, _mm256_set1_epi8(3)), scales, j)
        }
    }
}

/// The sixteen scales of Q3_K, as signed bytes.
///
/// # Safety
/// The processor has AVX2, and the twelve bytes of the scales can be read.
#[inline(always)]
pub(in crate::backend::cpu::simd) unsafe fn q3_k_scales(p: *const u8) -> __m128i {
    // SAFETY: as the caller promises.
    unsafe {
        let nibbles = _mm_loadl_epi64(p.cast());
        let nibbles = _mm_unpacklo_epi64(nibbles, _mm_srli_epi16::<4>(nibbles));
        let upper = _mm_set1_epi32(p.add(8).cast::<i32>().read_unaligned());
        let upper =
            _mm_slli_epi16::<4>(_mm_and_si128(_mm_srlv_epi32(upper, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3)));
        let stored = _mm_or_si128(_mm_and_si128(nibbles, _mm_set1_epi8(15)), upper);
        _mm_sub_epi8(stored, _mm_set1_epi8(32))
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q3_k::Block {
    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m256i; 2] {
        let (h, k) = (j / 4, j % 4);
        // SAFETY: 32 bytes with a third bit for each block in them are at the start, then 64 with two bits for each of four
        // blocks, then the scales.
        unsafe {
            let low = shifted::<0>(_mm256_loadu_si256(p.add(32 + 32 * h).cast()), 2 * k);
            let third = shifted::<2>(_mm256_loadu_si256(p.cast()), j);
            let low = _mm256_and_si256(low, _mm256_set1_epi8(3));
            let unsigned = _mm256_or_si256(low, _mm256_and_si256(third, _mm256_set1_epi8(4)));
            // At most 4 · 32.
            scaled(_mm256_sub_epi8(unsigned, _mm256_set1_epi8(4)), q3_k_scales(p.add(96)), j)
        }
    }
}
