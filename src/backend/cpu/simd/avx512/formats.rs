//! The block formats as 16-bit integers: all that a new format has to say here.
//!
//! Quants come two blocks at a time, in the order that is cheapest to make. Where a block's nibbles share bytes with one
//! another ([`Order::Woven`]), the first register has the first half of both blocks and the second the other half, two
//! numbers of the one block and then two of the other; activations are put into the same order once. So a sum's even
//! lanes belong to the first block and its odd lanes to the second.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::backend::cpu::simd::avx2::q3_k_scales;
use crate::backend::cpu::simd::scales::BlockScales;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Which activations belong to the quants of two blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// A register a block.
    Plain,
    /// See the module.
    Woven,
}

impl Order {
    /// What the sums of blocks 2j and 2j + 1 are multiplied with, whose scales are in the lanes of `scales`.
    #[inline(always)]
    pub(super) unsafe fn of_pair(self, scales: __m512, j: usize) -> [__m512; 2] {
        // SAFETY: the callers have AVX-512.
        unsafe {
            let of = |[a, b]: [usize; 2]| {
                let index = _mm512_set1_epi64((a | b << 32) as i64);
                _mm512_permutexvar_ps(index, scales)
            };
            match self {
                Order::Woven => [of([2 * j, 2 * j + 1]); 2],
                Order::Plain => [of([2 * j; 2]), of([2 * j + 1; 2])],
            }
        }
    }
}

/// How to unpack a format.
///
/// # Safety
/// `quants` reads nothing beyond the group, or with groups of one block beyond two blocks and [`BEYOND`] more bytes.
pub(super) unsafe trait Unpack: BlockScales {
    /// The order of what `quants` gives.
    const ORDER: Order;

    /// Blocks 2j and 2j + 1 of the group at `p`; with groups of one block, the block at `p` and the next. Their magnitude
    /// is at most 255, or 4,096 where blocks share a scale.
    ///
    /// # Safety
    /// The processor has the instruction set, and the blocks can be read.
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2];
}

/// Bytes behind the first of two blocks that are read: the other block, if there is none, and the rest of a register.
pub(super) const BEYOND: usize = 64;

/// Indices by which byte `at + i` of two blocks goes to the 16-bit lane that weaving gives it; other bytes are zeros.
const fn woven(stride: u8, at: u8) -> [u8; 64] {
    let mut index = [0; 64];
    let mut lane = 0;
    while lane < 32 {
        let (pair, block, half) = (lane as u8 / 4, lane as u8 / 2 % 2, lane as u8 % 2);
        index[2 * lane] = block * stride + at + 2 * pair + half;
        lane += 1;
    }
    index
}

/// Like [`woven`] for the bytes that have bit 2 · pair + half of a block's 16 bits at `at`.
const fn woven_bits(stride: u8, at: u8) -> [u8; 64] {
    let mut index = [0; 64];
    let mut lane = 0;
    while lane < 32 {
        let (pair, block) = (lane as u8 / 4, lane as u8 / 2 % 2);
        index[2 * lane] = block * stride + at + pair / 4;
        lane += 1;
    }
    index
}

/// The bit of such a byte that belongs to each lane.
const WOVEN_BIT: [u16; 32] = {
    let mut bits = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        bits[lane] = 1 << (2 * (lane / 4 % 4) + lane % 2);
        lane += 1;
    }
    bits
};

/// The lower bytes of 16-bit lanes.
const LOW_BYTES: u64 = 0x5555_5555_5555_5555;

/// The bytes of the register at `p` that `index` says, the upper one of each 16-bit lane zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn gather(p: *const u8, index: &[u8; 64]) -> __m512i {
    let v: __m512i;
    // In assembly since the compiler would rather mask what is made of it, which is twice.
    // SAFETY: the callers have 64 bytes there, and AVX-512 with VBMI.
    unsafe {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        asm!("vpermb {v}{{{k}}}{{z}}, {index}, zmmword ptr [{p}]", v = out(zmm_reg) v, index = in(zmm_reg) index,
            k = in(kreg) LOW_BYTES, p = in(reg) p, options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// The lower nibbles of bytes in 16-bit lanes, and the upper ones.
#[inline(always)]
unsafe fn nibbles(v: __m512i) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe { [_mm512_and_si512(v, _mm512_set1_epi16(15)), _mm512_srli_epi16::<4>(v)] }
}

/// For both halves of two blocks the lanes whose fifth bit is 0, in blocks of `stride` bytes with these bits at `at`.
#[inline(always)]
unsafe fn zero_fifths(p: *const u8, low: &[u8; 64], high: &[u8; 64]) -> [__mmask32; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let bit = _mm512_loadu_si512(WOVEN_BIT.as_ptr().cast());
        [_mm512_testn_epi16_mask(gather(p, low), bit), _mm512_testn_epi16_mask(gather(p, high), bit)]
    }
}

/// 32 bytes, each in a 16-bit lane.
#[inline(always)]
unsafe fn bytes(p: *const u8) -> __m512i {
    // SAFETY: the callers have 32 bytes there, and AVX-512.
    unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast())) }
}

// SAFETY: the offsets are those of the block struct that is named; so it is for all that follow.
unsafe impl Unpack for q4_0::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(18, 2);
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { nibbles(gather(p, &NIBBLES)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_1::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(20, 4);
        // SAFETY: the nibbles are 16 bytes after scale and offset.
        unsafe { nibbles(gather(p, &NIBBLES)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_0::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(22, 6);
        const FIFTHS: [[u8; 64]; 2] = [woven_bits(22, 2), woven_bits(22, 4)];
        // SAFETY: four bytes of fifth bits are after the scale, then 16 of nibbles.
        unsafe {
            let [low, high] = nibbles(gather(p, &NIBBLES));
            let [low_0, high_0] = zero_fifths(p, &FIFTHS[0], &FIFTHS[1]);
            // q - 16
            let minus = _mm512_set1_epi16(-16);
            [add_masked(low, low_0, minus), add_masked(high, high_0, minus)]
        }
    }
}

/// `v + b` in the lanes of `mask`, `v` in the others.
#[inline(always)]
unsafe fn add_masked(v: __m512i, mask: __mmask32, b: __m512i) -> __m512i {
    // SAFETY: the callers have AVX-512.
    unsafe { _mm512_mask_add_epi16(v, mask, v, b) }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_1::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(24, 8);
        const FIFTHS: [[u8; 64]; 2] = [woven_bits(24, 4), woven_bits(24, 6)];
        // SAFETY: four bytes of fifth bits are after scale and offset, then 16 of nibbles.
        unsafe {
            let [low, high] = nibbles(gather(p, &NIBBLES));
            let [low_0, high_0] = zero_fifths(p, &FIFTHS[0], &FIFTHS[1]);
            let fifth = _mm512_set1_epi16(16);
            [add_masked(low, !low_0, fifth), add_masked(high, !high_0, fifth)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q8_0::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: 32 bytes of quants are after each scale.
        unsafe { [2, 36].map(|at| _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.add(at).cast()))) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_k::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        // SAFETY: two blocks share 32 bytes of nibbles; these are after the head.
        unsafe { nibbles(bytes(p.add(16 + 32 * j))) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_k::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        // SAFETY: 32 bytes with a fifth bit for each block in them are after the head, then nibbles as in Q4_K.
        unsafe {
            let [low, high] = nibbles(bytes(p.add(48 + 32 * j)));
            let fifths = bytes(p.add(16));
            [or_bits::<16>(low, shifted::<4>(fifths, 2 * j)), or_bits::<16>(high, shifted::<4>(fifths, 2 * j + 1))]
        }
    }
}

/// `v | (bits & MASK)`
#[inline(always)]
unsafe fn or_bits<const MASK: i16>(v: __m512i, bits: __m512i) -> __m512i {
    // SAFETY: the callers have AVX-512. a | (b & c): 1 wherever a is, and where b and c are.
    unsafe { _mm512_ternarylogic_epi32::<0b1111_1000>(v, bits, _mm512_set1_epi16(MASK)) }
}

/// `v` with bit `bit` moved to bit `TO`. The shift is by a constant once loops over blocks are unrolled.
#[inline(always)]
unsafe fn shifted<const TO: usize>(v: __m512i, bit: usize) -> __m512i {
    // SAFETY: the callers have AVX-512.
    unsafe {
        if bit <= TO {
            _mm512_sll_epi16(v, _mm_cvtsi32_si128((TO - bit) as i32))
        } else {
            _mm512_srl_epi16(v, _mm_cvtsi32_si128((bit - TO) as i32))
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q6_k::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        // Blocks 4h + k and 4h + k + 1, k = 0 or 2.
        let (h, k) = (j / 2, 2 * (j % 2));
        // SAFETY: `ql` is at the start, `qh` after 128 bytes and `scales` after 192, as the struct has them.
        unsafe {
            let fifths = bytes(p.add(128 + 32 * h));
            let scales = _mm_loadu_si128(p.add(192).cast());
            let mut q = [_mm512_setzero_si512(); 2];
            for (i, q) in q.iter_mut().enumerate() {
                let low = nibbles(bytes(p.add(64 * h + 32 * i)))[k / 2];
                let unsigned = or_bits::<48>(low, shifted::<4>(fifths, 2 * (k + i)));
                // At most 32 · 128 = 4,096.
                *q = scaled(_mm512_sub_epi16(unsigned, _mm512_set1_epi16(32)), scales, 2 * j + i);
            }
            q
        }
    }
}

/// `q`, of block b, times the two of the sixteen signed bytes `scales` that its halves have.
#[inline(always)]
unsafe fn scaled(q: __m512i, scales: __m128i, b: usize) -> __m512i {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(scales));
        let first = _mm512_set1_epi16((2 * b) as i16);
        let index = _mm512_add_epi16(_mm512_loadu_si512(HALVES.as_ptr().cast()), first);
        _mm512_mullo_epi16(q, _mm512_permutexvar_epi16(index, scales))
    }
}

/// 0 in sixteen lanes, then 1.
const HALVES: [u16; 32] = {
    let mut halves = [0; 32];
    let mut lane = 16;
    while lane < 32 {
        halves[lane] = 1;
        lane += 1;
    }
    halves
};

/// The numbers that nibbles in 16-bit lanes stand for.
#[inline(always)]
unsafe fn numbers(nibbles: [__m512i; 2], table: &[i8; 16]) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let table = _mm256_cvtepi8_epi16(_mm_loadu_si128(table.as_ptr().cast()));
        nibbles.map(|nibbles| _mm512_permutexvar_epi16(nibbles, _mm512_castsi256_si512(table)))
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_nl::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(18, 2);
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { numbers(nibbles(gather(p, &NIBBLES)), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_xs::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        const NIBBLES: [[u8; 64]; 2] = [woven(16, 0), woven(16, 32)];
        // SAFETY: 16 bytes of nibbles for each block are after the head; a register has those of four blocks.
        unsafe { numbers(nibbles(gather(p.add(8 + 64 * (j / 2)), &NIBBLES[j % 2])), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for mxfp4::Block {
    const ORDER: Order = Order::Woven;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        const NIBBLES: [u8; 64] = woven(17, 1);
        // SAFETY: the nibbles are 16 bytes after the exponent.
        unsafe { numbers(nibbles(gather(p, &NIBBLES)), &mxfp4::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q2_k::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        // Blocks 4h + k and 4h + k + 1, k = 0 or 2.
        let (h, k) = (j / 2, 2 * (j % 2));
        // SAFETY: scales are at the start, 64 bytes of quants after them, of which a half of the blocks shares 32.
        unsafe {
            let all = bytes(p.add(16 + 32 * h));
            let scales = _mm_and_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            let mut q = [_mm512_setzero_si512(); 2];
            for (i, q) in q.iter_mut().enumerate() {
                let unsigned = _mm512_and_si512(shifted::<0>(all, 2 * (k + i)), _mm512_set1_epi16(3));
                // At most 3 · 15.
                *q = scaled(unsigned, scales, 2 * j + i);
            }
            q
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q3_k::Block {
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn quants(p: *const u8, j: usize) -> [__m512i; 2] {
        // Blocks 4h + k and 4h + k + 1, k = 0 or 2.
        let (h, k) = (j / 2, 2 * (j % 2));
        // SAFETY: 32 bytes with a third bit for each block in them are at the start, then 64 with two bits for each of four
        // blocks, then the scales.
        unsafe {
            let (all, thirds, scales) = (bytes(p.add(32 + 32 * h)), bytes(p), q3_k_scales(p.add(96)));
            let mut q = [_mm512_setzero_si512(); 2];
            for (i, q) in q.iter_mut().enumerate() {
                let low = _mm512_and_si512(shifted::<0>(all, 2 * (k + i)), _mm512_set1_epi16(3));
                let unsigned = or_bits::<4>(low, shifted::<2>(thirds, 2 * j + i));
                // At most 4 · 32.
                *q = scaled(_mm512_sub_epi16(unsigned, _mm512_set1_epi16(4)), scales, 2 * j + i);
            }
            q
        }
    }
}
