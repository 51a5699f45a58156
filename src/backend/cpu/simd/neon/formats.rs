//! The block formats as bytes in the order of their weights: all that a new format has to say here.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::backend::cpu::simd::scales::BlockScales;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// How to unpack a format.
///
/// # Safety
/// `quants` reads nothing beyond the group.
pub(super) unsafe trait Unpack: BlockScales {
    /// Whether each half of a block has an integer that its scale is multiplied with.
    const SUB_SCALES: bool = false;

    /// These integers of the eight halves from block `j` on of the group at `p`, j a multiple of four.
    ///
    /// # Safety
    /// As for `quants`; and there are some.
    unsafe fn sub_scales(_p: *const u8, _j: usize) -> int8x8_t {
        unreachable!("a format whose blocks have one scale")
    }

    /// Block `j` of the group: 16 weights as signed bytes, then the other 16.
    ///
    /// # Safety
    /// The processor has NEON, the group can be read, and j is below `GROUP`.
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2];
}

/// The same group of `R` weight rows.
#[derive(Clone, Copy)]
pub(super) struct Group<const R: usize>(pub(super) [*const u8; R]);

/// Sixteen bytes of a row; with two rows eight bytes of each, and then the other eight of each.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const R: usize>(pub(super) [uint8x16_t; R]);

impl<const R: usize> Group<R> {
    /// The sixteen bytes from `at` on.
    #[inline(always)]
    unsafe fn bytes(self, at: usize) -> Bytes<R> {
        const { assert!(R == 1 || R == 2) };
        // SAFETY: the callers have as many bytes there, and NEON; so it is for all that follow.
        unsafe {
            let mut bytes = [vdupq_n_u8(0); R];
            for (bytes, p) in bytes.iter_mut().zip(self.0) {
                *bytes = vld1q_u8(p.add(at));
            }
            if R == 2 {
                let (a, b) = (vreinterpretq_u64_u8(bytes[0]), vreinterpretq_u64_u8(bytes[1 % R]));
                bytes[0] = vreinterpretq_u8_u64(vtrn1q_u64(a, b));
                bytes[1 % R] = vreinterpretq_u8_u64(vtrn2q_u64(a, b));
            }
            Bytes(bytes)
        }
    }

    /// The 32 bits from the byte `at` on, each as bit 4 of a byte whose other bits may be anything.
    #[inline(always)]
    unsafe fn fifths(self, at: usize) -> [Bytes<R>; 2] {
        /// In which byte of the word lane i of the first register has its bit; with two rows the words follow one another.
        const OF_ONE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        const OF_TWO: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4];
        const TO_BIT_4: [i8; 16] = [4, 3, 2, 1, 0, -1, -2, -3, 4, 3, 2, 1, 0, -1, -2, -3];
        // SAFETY: as for `bytes`.
        unsafe {
            let word = |p: *const u8| vsetq_lane_u32::<0>(p.add(at).cast::<u32>().read_unaligned(), vdupq_n_u32(0));
            let mut words = word(self.0[0]);
            if R == 2 {
                words = vzip1q_u32(words, word(self.0[1 % R]));
            }
            let (words, shifts) = (vreinterpretq_u8_u32(words), vld1q_s8(TO_BIT_4.as_ptr()));
            let first = vld1q_u8(if R == 1 { OF_ONE.as_ptr() } else { OF_TWO.as_ptr() });
            let mut halves = [Bytes([vdupq_n_u8(0); R]); 2];
            for (h, half) in halves.iter_mut().enumerate() {
                for (i, to) in half.0.iter_mut().enumerate() {
                    // A register has two bytes of one row, or one of each of two.
                    let index = vaddq_u8(first, vdupq_n_u8((2 / R * (R * h + i)) as u8));
                    *to = vshlq_u8(vqtbl1q_u8(words, index), shifts);
                }
            }
            halves
        }
    }
}

/// `v`, but the bits of `mask` from `from`.
#[inline(always)]
unsafe fn insert(mut v: uint8x16_t, mask: uint8x16_t, from: uint8x16_t) -> uint8x16_t {
    // In assembly since the compiler would rather make three instructions of it.
    // SAFETY: the callers have NEON.
    unsafe {
        asm!("bit {v:v}.16b, {from:v}.16b, {mask:v}.16b", v = inout(vreg) v, from = in(vreg) from, mask = in(vreg) mask,
            options(pure, nomem, nostack, preserves_flags));
    }
    v
}

impl<const R: usize> Bytes<R> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(uint8x16_t) -> uint8x16_t) -> Self {
        // Not an array's own `map`, which is not always inlined.
        for v in &mut self.0 {
            *v = f(*v);
        }
        self
    }

    /// The lower nibbles, or the upper ones.
    #[inline(always)]
    unsafe fn nibbles(self, upper: bool) -> Self {
        // SAFETY: as for `Group`, here and below.
        unsafe { self.map(|v| if upper { vshrq_n_u8::<4>(v) } else { vandq_u8(v, vdupq_n_u8(15)) }) }
    }

    /// These bytes, but the bits of `mask` from `other`.
    #[inline(always)]
    unsafe fn with(mut self, mask: u8, other: Self) -> Self {
        for (v, other) in self.0.iter_mut().zip(other.0) {
            // SAFETY: as above.
            *v = unsafe { insert(*v, vdupq_n_u8(mask), other) };
        }
        self
    }

    /// Less `n`.
    #[inline(always)]
    unsafe fn minus(self, n: u8) -> Self {
        // SAFETY: as above.
        unsafe { self.map(|v| vsubq_u8(v, vdupq_n_u8(n))) }
    }

    /// Bit `bit` moved to bit `to`; others go with it. The shift is by a constant once loops over blocks are unrolled.
    #[inline(always)]
    unsafe fn moved(self, bit: usize, to: usize) -> Self {
        // SAFETY: as above.
        unsafe { if bit == to { self } else { self.map(|v| vshlq_u8(v, vdupq_n_s8(to as i8 - bit as i8))) } }
    }
}

// SAFETY: the offsets are those of the block struct that is named; so it is for all that follow.
unsafe impl Unpack for q4_0::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe {
            let bytes = group.bytes(2);
            [bytes.nibbles(false), bytes.nibbles(true)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_1::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: the nibbles are 16 bytes after scale and offset.
        unsafe {
            let bytes = group.bytes(4);
            [bytes.nibbles(false), bytes.nibbles(true)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_0::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: four bytes of fifth bits are after the scale, then 16 of nibbles.
        unsafe {
            let (bytes, [low, high]) = (group.bytes(6), group.fifths(2));
            [bytes.nibbles(false).with(16, low).minus(16), bytes.nibbles(true).with(16, high).minus(16)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_1::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: four bytes of fifth bits are after scale and offset, then 16 of nibbles.
        unsafe {
            let (bytes, [low, high]) = (group.bytes(8), group.fifths(4));
            [bytes.nibbles(false).with(16, low), bytes.nibbles(true).with(16, high)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q8_0::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: 32 bytes of quants are after the scale.
        unsafe { [group.bytes(2), group.bytes(18)] }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q4_k::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        // SAFETY: two blocks share 32 bytes of nibbles; these are after the head.
        unsafe {
            let half = |at: usize| group.bytes(at + j / 2 * 32).nibbles(j % 2 == 1);
            [half(16), half(32)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q5_k::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        // SAFETY: 32 bytes with a fifth bit for each block in them are after the head, then nibbles as in Q4_K.
        unsafe {
            let half = |at: usize| {
                let nibbles = group.bytes(48 + j / 2 * 32 + at).nibbles(j % 2 == 1);
                nibbles.with(16, group.bytes(16 + at).moved(j, 4))
            };
            [half(0), half(16)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q6_k::Block {
    const SUB_SCALES: bool = true;

    #[inline(always)]
    unsafe fn sub_scales(p: *const u8, j: usize) -> int8x8_t {
        // SAFETY: sixteen of them are after 192 bytes.
        unsafe { vld1_s8(p.add(192 + 2 * j).cast()) }
    }

    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        let (h, k) = (j / 4, j % 4);
        // SAFETY: 128 bytes of nibbles are at the start, 64 of upper bits after them, then the scales.
        unsafe {
            let half = |at: usize| {
                let nibbles = group.bytes(64 * h + 32 * (k % 2) + at).nibbles(k >= 2);
                nibbles.with(48, group.bytes(128 + 32 * h + at).moved(2 * k, 4)).minus(32)
            };
            [half(0), half(16)]
        }
    }
}

impl<const R: usize> Bytes<R> {
    /// What `table` has at these indices below 16.
    #[inline(always)]
    unsafe fn of(self, table: &[i8; 16]) -> Self {
        // SAFETY: as above.
        unsafe {
            let table = vld1q_u8(table.as_ptr().cast());
            self.map(|v| vqtbl1q_u8(table, v))
        }
    }
}

/// The numbers that the nibbles of 16 bytes stand for.
#[inline(always)]
unsafe fn numbers<const R: usize>(bytes: Bytes<R>, table: &[i8; 16]) -> [Bytes<R>; 2] {
    // SAFETY: the callers have NEON.
    unsafe { [bytes.nibbles(false).of(table), bytes.nibbles(true).of(table)] }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_nl::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: the nibbles are 16 bytes after the scale.
        unsafe { numbers(group.bytes(2), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for iq4_xs::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        // SAFETY: 16 bytes of nibbles for each block are after the head.
        unsafe { numbers(group.bytes(8 + 16 * j), &iq4_nl::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for mxfp4::Block {
    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, _: usize) -> [Bytes<R>; 2] {
        // SAFETY: the nibbles are 16 bytes after the exponent.
        unsafe { numbers(group.bytes(1), &mxfp4::NUMBERS) }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q2_k::Block {
    const SUB_SCALES: bool = true;

    #[inline(always)]
    unsafe fn sub_scales(p: *const u8, j: usize) -> int8x8_t {
        // SAFETY: sixteen of them are at the start, in the lower nibbles.
        unsafe { vreinterpret_s8_u8(vand_u8(vld1_u8(p.add(2 * j)), vdup_n_u8(15))) }
    }

    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        // SAFETY: 64 bytes of quants are after the scales, of which a half of the blocks shares 32.
        unsafe {
            let half = |at: usize| {
                let bytes = group.bytes(16 + j / 4 * 32 + at).moved(2 * (j % 4), 0);
                bytes.map(|v| vandq_u8(v, vdupq_n_u8(3)))
            };
            [half(0), half(16)]
        }
    }
}

// SAFETY: see q4_0.
unsafe impl Unpack for q3_k::Block {
    const SUB_SCALES: bool = true;

    #[inline(always)]
    unsafe fn sub_scales(p: *const u8, j: usize) -> int8x8_t {
        // SAFETY: the scales are after 96 bytes: eight of nibbles, of which the upper ones belong to the second half, then
        // four with two upper bits each for four of them.
        unsafe {
            let nibbles = vld1_u8(p.add(96));
            let nibbles = if j == 0 { vand_u8(nibbles, vdup_n_u8(15)) } else { vshr_n_u8::<4>(nibbles) };
            let upper = vreinterpret_u8_u32(vdup_n_u32(p.add(104).cast::<u32>().read_unaligned()));
            let first = -(j as i8);
            let shifts = vext_s8::<4>(vdup_n_s8(first), vdup_n_s8(first - 2));
            let upper = vand_u8(vshl_u8(upper, shifts), vdup_n_u8(3));
            vsub_s8(vreinterpret_s8_u8(vsli_n_u8::<4>(nibbles, upper)), vdup_n_s8(32))
        }
    }

    #[inline(always)]
    unsafe fn quants<const R: usize>(group: Group<R>, j: usize) -> [Bytes<R>; 2] {
        // SAFETY: 32 bytes with a third bit for each block in them are at the start, then 64 with two bits for each of four
        // blocks.
        unsafe {
            let half = |at: usize| {
                let low = group.bytes(32 + j / 4 * 32 + at).moved(2 * (j % 4), 0);
                let low = low.map(|v| vandq_u8(v, vdupq_n_u8(3)));
                low.with(4, group.bytes(at).moved(j, 2)).minus(4)
            };
            [half(0), half(16)]
        }
    }
}
