//! The block formats as bytes: all that a new format has to say here.
//!
//! A chunk of 256 weights is four registers of bytes, in the order that is cheapest to make ([`Order`]); activations are put
//! into the same orders once. A byte is a quant, and [`Unpack::ZERO`] more where quants can be negative: bytes of weights are
//! multiplied as unsigned ones.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::backend::cpu::simd::avx2::q3_k_scales;
use crate::backend::cpu::simd::scales::BlockScales;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Which weights of a chunk are in which of its registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The first halves of four blocks and the second halves of these; then of the next four.
    Halves,
    /// Two blocks, and the next two: 0 and 1, 2 and 3, …
    Plain,
    /// Blocks 0 and 2, 1 and 3; 4 and 6, 5 and 7.
    Pairs,
    /// Blocks 0 and 4, 1 and 5, …
    Fours,
}

impl Order {
    pub(super) const ALL: [Order; 4] = [Order::Halves, Order::Plain, Order::Pairs, Order::Fours];

    /// Which half block of a chunk is in 16 bytes of a register.
    pub(super) const fn half_block(self, register: usize, sixteen: usize) -> usize {
        let (pair, which) = (register / 2, register % 2);
        match self {
            Order::Halves => 2 * (4 * pair + sixteen) + which,
            Order::Plain => 4 * register + sixteen,
            Order::Pairs => 2 * (4 * pair + 2 * (sixteen / 2) + which) + sixteen % 2,
            Order::Fours => 2 * (4 * (sixteen / 2) + register) + sixteen % 2,
        }
    }

    /// From which two registers in plain order a register comes, and which eighths of the one and then of the other.
    pub(super) const fn sources(self, register: usize) -> ([usize; 2], [u64; 8]) {
        let registers = [self.half_block(register, 0) / 4, self.half_block(register, 3) / 4];
        let mut eighths = [0; 8];
        let mut i = 0;
        while i < 8 {
            let from = self.half_block(register, i / 2);
            let second = if from / 4 == registers[0] { 0 } else { 8 };
            eighths[i] = (second + from % 4 * 2 + i % 2) as u64;
            i += 1;
        }
        (registers, eighths)
    }
}

/// How to unpack a format.
///
/// # Safety
/// `quants` reads nothing beyond the group, or with groups of one block beyond the first of four blocks and [`BEYOND`] more bytes.
pub(super) unsafe trait Unpack: BlockScales {
    /// The order of what `quants` gives.
    const ORDER: Order;
    /// What bytes are more than quants.
    const ZERO: u8 = 0;

    /// Two registers of a chunk: with groups of eight blocks those from 2 · `half` on of the group at `p`; with groups of one
    /// block those of the four blocks at `p`.
    ///
    /// # Safety
    /// The processor has the instruction set, and the blocks can be read.
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2];

    /// Where blocks share a scale: what the quants of each half block are multiplied with, as signed bytes.
    ///
    /// # Safety
    /// As for `quants`.
    unsafe fn factors(_: *const u8) -> __m128i {
        unreachable!("blocks have scales of their own")
    }
}

/// Bytes behind the first of four blocks that are read: the other blocks, if there are none, or the rest of a register.
pub(super) const BEYOND: usize = 128;

/// The lower nibbles of bytes, and the upper ones.
#[inline(always)]
unsafe fn nibbles(v: __m512i) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let mask = _mm512_set1_epi8(15);
        [_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask)]
    }
}

/// 16 bytes of each of four blocks of `STRIDE` bytes, from byte `AT` on.
#[inline(always)]
unsafe fn sixteens<const STRIDE: usize, const AT: usize>(p: *const u8) -> __m512i {
    const { assert!(STRIDE <= 24, "three of them in a register") };
    // Of the last block, which is at the end of the second register.
    let last = 3 * STRIDE + 16 - 64;
    // SAFETY: the callers have AVX-512 and what `BEYOND` says.
    unsafe {
        let first = p.add(AT);
        if STRIDE.is_multiple_of(4) {
            let index = const { words_of_sixteens(STRIDE) };
            let index = _mm512_loadu_si512(index.as_ptr().cast());
            let last = _mm512_loadu_si512(first.add(last).cast());
            _mm512_permutex2var_epi32(_mm512_loadu_si512(first.cast()), index, last)
        } else {
            let index = &const { bytes_of_sixteens(STRIDE) };
            take(take(_mm512_undefined_epi32(), !0, index, first), 0xffff << 48, index, first.add(last))
        }
    }
}

/// For [`sixteens`]: words of two registers, the second one with the last block at its end.
const fn words_of_sixteens(stride: usize) -> [u32; 16] {
    let mut index = [0; 16];
    let mut i = 0;
    while i < 16 {
        index[i] = if i < 12 { i / 4 * stride / 4 + i % 4 } else { 16 + i } as u32;
        i += 1;
    }
    index
}

/// The same for bytes: of the first register for three blocks, of the second one for the last.
const fn bytes_of_sixteens(stride: usize) -> [u8; 64] {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 64 {
        index[i] = if i < 48 { i / 16 * stride + i % 16 } else { i } as u8;
        i += 1;
    }
    index
}

/// `bytes`, those in `mask` replaced by those of the register at `p` that `index` says.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn take(mut bytes: __m512i, mask: u64, index: &[u8; 64], p: *const u8) -> __m512i {
    // In assembly since the compiler would rather take each byte by itself, as it knows which they are.
    // SAFETY: the callers have 64 bytes there, and AVX-512 with VBMI.
    unsafe {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        if mask == !0 {
            asm!("vpermb {bytes}, {index}, zmmword ptr [{p}]", bytes = out(zmm_reg) bytes, index = in(zmm_reg) index,
                p = in(reg) p, options(pure, readonly, nostack, preserves_flags));
        } else {
            asm!("vpermb {bytes}{{{mask}}}, {index}, zmmword ptr [{p}]", bytes = inout(zmm_reg) bytes,
                mask = in(kreg) mask, index = in(zmm_reg) index, p = in(reg) p,
                options(pure, readonly, nostack, preserves_flags));
        }
    }
    bytes
}

/// Nibbles in [`Order::Halves`] with their fifth bits, of which four blocks of `STRIDE` bytes have two bytes for each half
/// from byte `AT` on, before the nibbles.
#[inline(always)]
unsafe fn fives<const STRIDE: usize, const AT: usize, const NIBBLES: usize>(p: *const u8) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512, and what `BEYOND` says.
    unsafe {
        let mut q = nibbles(sixteens::<STRIDE, NIBBLES>(p));
        for (half, q) in q.iter_mut().enumerate() {
            let index = &const { [bytes_of_bits(STRIDE, 0), bytes_of_bits(STRIDE, 2)] }[half];
            // Three blocks have them within a register.
            let fifths = take(_mm512_undefined_epi32(), !0, index, p.add(AT));
            let fifths = take(fifths, 0xffff << 48, index, p.add(AT + STRIDE));
            let bit = _mm512_set1_epi64(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
            *q = _mm512_mask_add_epi8(*q, _mm512_test_epi8_mask(fifths, bit), *q, _mm512_set1_epi8(16));
        }
        q
    }
}

/// The bytes with a bit for each of 16 weights of four blocks, the fourth one of them where the third one was.
const fn bytes_of_bits(stride: usize, at: usize) -> [u8; 64] {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 64 {
        let block = if i / 16 < 3 { i / 16 } else { 2 };
        index[i] = (block * stride + at + i % 16 / 8) as u8;
        i += 1;
    }
    index
}

/// The quants that nibbles stand for, and `zero` more.
#[inline(always)]
unsafe fn numbers(nibbles: [__m512i; 2], table: &[i8; 16], zero: u8) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let table = _mm_add_epi8(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(zero as i8));
        let table = _mm512_broadcast_i32x4(table);
        [_mm512_shuffle_epi8(table, nibbles[0]), _mm512_shuffle_epi8(table, nibbles[1])]
    }
}

/// `q`, and those bits of `bits` that are in `MASK` after they were moved up in both halves of the register.
#[inline(always)]
unsafe fn with_bits<const MASK: i8>(q: __m512i, bits: __m512i, up: [i64; 2]) -> __m512i {
    // SAFETY: the callers have AVX-512. a | (b & c): 1 wherever a is, and where b and c are.
    unsafe {
        let [low, high] = up.map(|up| up.rem_euclid(64));
        // What bits of a neighbour come in are not in the mask.
        let moved = _mm512_rolv_epi64(bits, _mm512_setr_epi64(low, low, low, low, high, high, high, high));
        _mm512_ternarylogic_epi32::<0b1111_1000>(q, moved, _mm512_set1_epi8(MASK))
    }
}

/// The 32 bytes at `p` in both halves.
#[inline(always)]
unsafe fn twice(p: *const u8) -> __m512i {
    // SAFETY: the callers have AVX-512 and 32 bytes there.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast())) }
}

/// The 64 bytes at `p`.
#[inline(always)]
unsafe fn load(p: *const u8) -> __m512i {
    // SAFETY: the callers have AVX-512 and 64 bytes there.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

// SAFETY: the offsets are those of the block struct that is named; so it is for all that follow.
unsafe impl Unpack for q4_0::Block {
    const ORDER: Order = Order::Halves;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { nibbles(sixteens::<18, 2>(p)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_1::Block {
    const ORDER: Order = Order::Halves;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: the nibbles are 16 bytes after scale and offset.
        unsafe { nibbles(sixteens::<20, 4>(p)) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_0::Block {
    const ORDER: Order = Order::Halves;
    const ZERO: u8 = 16;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: four bytes of fifth bits are after the scale, then 16 of nibbles.
        unsafe { fives::<22, 2, 6>(p) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_1::Block {
    const ORDER: Order = Order::Halves;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: four bytes of fifth bits are after scale and offset, then 16 of nibbles.
        unsafe { fives::<24, 4, 8>(p) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q8_0::Block {
    const ORDER: Order = Order::Plain;
    const ZERO: u8 = 128;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: 32 bytes of quants are after each scale.
        unsafe { [q8_0_pair(p.add(2)), q8_0_pair(p.add(70))] }
    }
}

/// The quants of two blocks, those of the first one at `p`.
#[inline(always)]
unsafe fn q8_0_pair(p: *const u8) -> __m512i {
    // SAFETY: the callers have AVX-512 and these bytes.
    unsafe {
        let first = _mm512_castsi256_si512(_mm256_loadu_si256(p.cast()));
        let both = _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(p.add(34).cast()));
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_k::Block {
    const ORDER: Order = Order::Pairs;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: two blocks share 32 bytes of nibbles; these are after the head.
        unsafe { nibbles(load(p.add(16 + 64 * half))) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_k::Block {
    const ORDER: Order = Order::Pairs;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        let at = |which: usize| [0, 2].map(|block| 4 - (4 * half + which + block) as i64);
        // SAFETY: 32 bytes with a fifth bit for each block in them are after the head, then nibbles as in Q4_K.
        unsafe {
            let [low, high] = nibbles(load(p.add(48 + 64 * half)));
            let fifths = twice(p.add(16));
            [with_bits::<16>(low, fifths, at(0)), with_bits::<16>(high, fifths, at(1))]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q6_k::Block {
    const ORDER: Order = Order::Plain;
    const ZERO: u8 = 32;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: `ql` is at the start, `qh` after 128 bytes, as the struct has them.
        unsafe {
            let [low, high] = nibbles(load(p.add(64 * half)));
            let upper = twice(p.add(128 + 32 * half));
            [with_bits::<48>(low, upper, [4, 2]), with_bits::<48>(high, upper, [0, -2])]
        }
    }

    #[inline(always)]
    unsafe fn factors(p: *const u8) -> __m128i {
        // SAFETY: `scales` are after 192 bytes.
        unsafe { _mm_loadu_si128(p.add(192).cast()) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_nl::Block {
    const ORDER: Order = Order::Halves;
    const ZERO: u8 = 127;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { numbers(nibbles(sixteens::<18, 2>(p)), &iq4_nl::NUMBERS, Self::ZERO) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_xs::Block {
    const ORDER: Order = Order::Halves;
    const ZERO: u8 = 127;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: 16 bytes of nibbles for each block are after the head.
        unsafe { numbers(nibbles(load(p.add(8 + 64 * half))), &iq4_nl::NUMBERS, Self::ZERO) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for mxfp4::Block {
    const ORDER: Order = Order::Halves;
    const ZERO: u8 = 12;

    #[inline(always)]
    unsafe fn quants(p: *const u8, _: usize) -> [__m512i; 2] {
        // SAFETY: the nibbles are 16 bytes after the exponent.
        unsafe { numbers(nibbles(sixteens::<17, 1>(p)), &mxfp4::NUMBERS, Self::ZERO) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q2_k::Block {
    const ORDER: Order = Order::Fours;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: 64 bytes of quants are after the scales, of which a half of the blocks shares 32.
        unsafe { twos(load(p.add(16)), half) }
    }

    #[inline(always)]
    unsafe fn factors(p: *const u8) -> __m128i {
        // SAFETY: scales are at the start.
        unsafe { _mm_and_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(15)) }
    }
}

/// Two bits of each byte, and the two above them: those at bit 4 · `half`.
#[inline(always)]
unsafe fn twos(v: __m512i, half: usize) -> [__m512i; 2] {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let v = if half == 0 { v } else { _mm512_srli_epi16::<4>(v) };
        let mask = _mm512_set1_epi8(3);
        [_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<2>(v), mask)]
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q3_k::Block {
    const ORDER: Order = Order::Fours;
    const ZERO: u8 = 4;

    #[inline(always)]
    unsafe fn quants(p: *const u8, half: usize) -> [__m512i; 2] {
        let at = |which: usize| [0, 4].map(|block| 2 - (2 * half + which + block) as i64);
        // SAFETY: 32 bytes with a third bit for each block in them are at the start, then 64 with two bits for each of four
        // blocks.
        unsafe {
            let [low, high] = twos(load(p.add(32)), half);
            let thirds = twice(p);
            [with_bits::<4>(low, thirds, at(0)), with_bits::<4>(high, thirds, at(1))]
        }
    }

    #[inline(always)]
    unsafe fn factors(p: *const u8) -> __m128i {
        // SAFETY: the scales are behind the quants.
        unsafe { q3_k_scales(p.add(96)) }
    }
}
