//! The block formats, one weight row to a lane: all that a new format has to say here.

#![expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]

use super::unpack::{Keep, Quants, Rows};
use crate::backend::cpu::simd::vector::{MAX_LANES, Vector};
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// The two halves at the byte `at` of each row.
#[inline(always)]
unsafe fn two_halves<V: Vector>(rows: &Rows, at: usize) -> [V; 2] {
    // SAFETY: the callers have four bytes there.
    unsafe { as_halves(V::words(rows, at)) }
}

/// The two numbers in half precision that words are.
#[inline(always)]
unsafe fn as_halves<V: Vector>(words: V::Ints) -> [V; 2] {
    // SAFETY: the callers have the instruction set, here and below.
    unsafe { [V::from_half_bits(words), V::from_half_bits(V::shift_right(words, 16))] }
}

/// The half at the byte `at` of each row.
#[inline(always)]
unsafe fn half<V: Vector>(rows: &Rows, at: usize) -> V {
    let mut halves = [0u32; MAX_LANES];
    // SAFETY: the callers have two bytes there.
    unsafe {
        for i in 0..V::LEN {
            halves[i] = rows[i].add(at).cast::<u16>().read_unaligned().into();
        }
        V::from_half_bits(V::load_ints(halves.as_ptr()))
    }
}

/// Bits `from..from + n` of each byte of words, n below 8, at bits `to..`; all are constants once loops are unrolled.
#[inline(always)]
unsafe fn bits<V: Vector>(words: V::Ints, from: usize, n: usize, to: usize) -> V::Ints {
    // SAFETY: as above.
    unsafe {
        let moved = match (from as u32, to as u32) {
            (from, to) if from > to => V::shift_right(words, from - to),
            (from, to) if from < to => V::shift_left(words, to - from),
            _ => words,
        };
        V::and(moved, V::splat_ints(0x0101_0101 * (((1 << n) - 1) << to)))
    }
}

/// Byte `byte` of words as a number.
#[inline(always)]
unsafe fn byte<V: Vector>(words: V::Ints, byte: usize) -> V {
    // SAFETY: as above.
    unsafe { V::from_ints(V::and(V::shift_right(words, 8 * byte as u32), V::splat_ints(0xff))) }
}

/// `q - by` in each byte.
#[inline(always)]
unsafe fn less<V: Vector>(q: V::Ints, by: u8) -> V::Ints {
    // SAFETY: as above.
    unsafe { V::sub_bytes(q, V::splat_ints(0x0101_0101 * u32::from(by))) }
}

/// The lower nibbles of 16 bytes of each row, and the upper ones.
#[inline(always)]
unsafe fn nibbles<V: Vector>(rows: &Rows, at: usize) -> [[V::Ints; 4]; 2] {
    // SAFETY: the callers have 16 bytes there.
    unsafe {
        let columns = V::columns(rows, at);
        let mut nibbles = [columns; 2];
        for j in 0..4 {
            nibbles[0][j] = bits::<V>(columns[j], 0, 4, 0);
            nibbles[1][j] = bits::<V>(columns[j], 4, 4, 0);
        }
        nibbles
    }
}

/// Four of the bits of words, from 4i on, each as the fifth one of a byte.
#[inline(always)]
unsafe fn fifths<V: Vector>(words: V::Ints, i: usize) -> V::Ints {
    // SAFETY: as above.
    unsafe {
        let mut all = V::splat_ints(0);
        for b in 0..4 {
            let (from, to) = (4 * i as u32 + b, 8 * b + 4);
            let moved = if from > to { V::shift_right(words, from - to) } else { V::shift_left(words, to - from) };
            all = V::or(all, V::and(moved, V::splat_ints(1 << to)));
        }
        all
    }
}

/// Keeps the scale, and the offset if there is one, that a group of one sub-block opens with.
#[inline(always)]
unsafe fn one_scale<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
    // SAFETY: the callers have four bytes there.
    unsafe {
        let [scale, min] = two_halves::<V>(rows, at);
        to.scale(0, scale, min);
    }
}

/// Keeps the scales and the offsets of the eight sub-blocks of heads.
#[inline(always)]
unsafe fn head<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
    // SAFETY: the callers have a head there.
    unsafe {
        // Four scales in a word, at the same bits of its bytes, as `Head` has them.
        let [halves, low, mins, high] = V::columns(rows, at);
        let [d, dmin] = as_halves::<V>(halves);
        let dmin = V::splat(0.0).sub(dmin);
        let scales = [bits::<V>(low, 0, 6, 0), V::or(bits::<V>(high, 0, 4, 0), bits::<V>(low, 6, 2, 4))];
        let mins = [bits::<V>(mins, 0, 6, 0), V::or(bits::<V>(high, 4, 4, 0), bits::<V>(mins, 6, 2, 4))];
        for s in 0..8 {
            to.scale(s, d.mul(byte::<V>(scales[s / 4], s % 4)), dmin.mul(byte::<V>(mins[s / 4], s % 4)));
        }
    }
}

// SAFETY: a block is a half and 16 bytes of nibbles, as the struct has them; so it is for all that follow.
unsafe impl Quants for q4_0::Block {
    const LEN: usize = q4_0::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            for (h, nibbles) in nibbles::<V>(rows, at + 2).into_iter().enumerate() {
                for j in 0..4 {
                    to.quants(4 * h + j, less::<V>(nibbles[j], 8));
                }
            }
        }
    }
}

// SAFETY: a block is two halves and 16 bytes of nibbles.
unsafe impl Quants for q4_1::Block {
    const LEN: usize = q4_1::LEN;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            for (h, nibbles) in nibbles::<V>(rows, at + 4).into_iter().enumerate() {
                for j in 0..4 {
                    to.quants(4 * h + j, nibbles[j]);
                }
            }
        }
    }
}

// SAFETY: a block is a half, four bytes of fifth bits, and 16 bytes of nibbles.
unsafe impl Quants for q5_0::Block {
    const LEN: usize = q5_0::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            let bits = V::words(rows, at + 2);
            for (h, nibbles) in nibbles::<V>(rows, at + 6).into_iter().enumerate() {
                for j in 0..4 {
                    let q = V::or(nibbles[j], fifths::<V>(bits, 4 * h + j));
                    to.quants(4 * h + j, less::<V>(q, 16));
                }
            }
        }
    }
}

// SAFETY: a block is two halves, four bytes of fifth bits, and 16 bytes of nibbles.
unsafe impl Quants for q5_1::Block {
    const LEN: usize = q5_1::LEN;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            let bits = V::words(rows, at + 4);
            for (h, nibbles) in nibbles::<V>(rows, at + 8).into_iter().enumerate() {
                for j in 0..4 {
                    let q = V::or(nibbles[j], fifths::<V>(bits, 4 * h + j));
                    to.quants(4 * h + j, q);
                }
            }
        }
    }
}

// SAFETY: a block is a half and 32 bytes.
unsafe impl Quants for q8_0::Block {
    const LEN: usize = q8_0::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            for half in 0..2 {
                let columns = V::columns(rows, at + 2 + 16 * half);
                for j in 0..4 {
                    to.quants(4 * half + j, columns[j]);
                }
            }
        }
    }
}

// SAFETY: a block is a head and 128 bytes of nibbles.
unsafe impl Quants for q4_k::Block {
    const LEN: usize = q4_k::LEN;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            head::<V>(rows, at, to);
            for c in 0..8 {
                let first = 16 * (c / 2) + 4 * (c % 2);
                for (h, nibbles) in nibbles::<V>(rows, at + 16 + 16 * c).into_iter().enumerate() {
                    for j in 0..4 {
                        to.quants(first + 8 * h + j, nibbles[j]);
                    }
                }
            }
        }
    }
}

// SAFETY: a block is a head, 32 bytes of fifth bits, and 128 bytes of nibbles.
unsafe impl Quants for q5_k::Block {
    const LEN: usize = q5_k::LEN;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            head::<V>(rows, at, to);
            let fifths = [V::columns(rows, at + 16), V::columns(rows, at + 32)];
            for c in 0..8 {
                let first = 16 * (c / 2) + 4 * (c % 2);
                for (h, nibbles) in nibbles::<V>(rows, at + 48 + 16 * c).into_iter().enumerate() {
                    for j in 0..4 {
                        let fifth = bits::<V>(fifths[c % 2][j], c / 2 * 2 + h, 1, 4);
                        to.quants(first + 8 * h + j, V::or(nibbles[j], fifth));
                    }
                }
            }
        }
    }
}

// SAFETY: a block is 128 bytes of nibbles, 64 of upper bits, 16 scales and a half.
unsafe impl Quants for q6_k::Block {
    const LEN: usize = q6_k::LEN;
    const SUB_LEN: usize = 16;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            let d = half::<V>(rows, at + 208);
            for (j, words) in V::columns(rows, at + 192).into_iter().enumerate() {
                for b in 0..4 {
                    let scale = V::shift_right_signed(V::shift_left(words, 24 - 8 * b as u32), 24);
                    to.scale(4 * j + b, d.mul(V::from_ints(scale)), d);
                }
            }
            for c in 0..8 {
                // Sixteen bytes of nibbles: of weights 32k + 16s in half h, and 64 more.
                let (h, k, s) = (c / 4, c / 2 % 2, c % 2);
                let first = 32 * h + 8 * k + 4 * s;
                let upper = V::columns(rows, at + 128 + 32 * h + 16 * s);
                for (n, nibbles) in nibbles::<V>(rows, at + 16 * c).into_iter().enumerate() {
                    for j in 0..4 {
                        let q = V::or(nibbles[j], bits::<V>(upper[j], 2 * k + 4 * n, 2, 4));
                        to.quants(first + 16 * n + j, less::<V>(q, 32));
                    }
                }
            }
        }
    }
}

/// Sixteen bytes of quants of two bits of the blocks of Q2_K and Q3_K, the c-th ones: of weights 128 · (c / 2) + 16 · (c % 2), and of
/// 32, 64 and 96 more.
#[inline(always)]
unsafe fn two_bits<V: Vector>(rows: &Rows, at: usize, c: usize) -> [[V::Ints; 4]; 4] {
    // SAFETY: the callers have them there.
    unsafe {
        let columns = V::columns(rows, at + 16 * c);
        let mut all = [columns; 4];
        for k in 0..4 {
            for j in 0..4 {
                all[k][j] = bits::<V>(columns[j], 2 * k, 2, 0);
            }
        }
        all
    }
}

// SAFETY: a block is 16 scales, 64 bytes of quants and two halves.
unsafe impl Quants for q2_k::Block {
    const LEN: usize = q2_k::LEN;
    const SUB_LEN: usize = 16;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, dmin] = two_halves::<V>(rows, at + 80);
            let dmin = V::splat(0.0).sub(dmin);
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                let [scales, mins] = [bits::<V>(words, 0, 4, 0), bits::<V>(words, 4, 4, 0)];
                for b in 0..4 {
                    to.scale(4 * j + b, d.mul(byte::<V>(scales, b)), dmin.mul(byte::<V>(mins, b)));
                }
            }
            for c in 0..4 {
                for (k, q) in two_bits::<V>(rows, at + 16, c).into_iter().enumerate() {
                    for j in 0..4 {
                        to.quants(32 * (c / 2) + 4 * (c % 2) + 8 * k + j, q[j]);
                    }
                }
            }
        }
    }
}

// SAFETY: a block is 32 bytes of third bits, 64 of the two below them, 12 of scales and a half.
unsafe impl Quants for q3_k::Block {
    const LEN: usize = q3_k::LEN;
    const SUB_LEN: usize = 16;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            let d = half::<V>(rows, at + 108);
            // Four bytes before the scales; nibbles of scales 0 to 7 and of those eight later, and the two bits above them.
            let [_, low, middle, high] = V::columns(rows, at + 92);
            for (j, words) in [low, middle, low, middle].into_iter().enumerate() {
                let scales = V::or(bits::<V>(words, j / 2 * 4, 4, 0), bits::<V>(high, 2 * j, 2, 4));
                for b in 0..4 {
                    to.scale(4 * j + b, d.mul(byte::<V>(scales, b).sub(V::splat(32.0))), d);
                }
            }
            let thirds = [V::columns(rows, at), V::columns(rows, at + 16)];
            for c in 0..4 {
                for (k, q) in two_bits::<V>(rows, at + 32, c).into_iter().enumerate() {
                    for j in 0..4 {
                        let q = V::or(q[j], bits::<V>(thirds[c % 2][j], c / 2 * 4 + k, 1, 2));
                        to.quants(32 * (c / 2) + 4 * (c % 2) + 8 * k + j, less::<V>(q, 4));
                    }
                }
            }
        }
    }
}

// SAFETY: a block is a half and 16 bytes of nibbles.
unsafe impl Quants for iq4_nl::Block {
    const LEN: usize = iq4_nl::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            one_scale::<V>(rows, at, to);
            for (h, nibbles) in nibbles::<V>(rows, at + 2).into_iter().enumerate() {
                for j in 0..4 {
                    to.quants(4 * h + j, V::lookup_bytes(&iq4_nl::NUMBERS, nibbles[j]));
                }
            }
        }
    }
}

// SAFETY: a block is a head of eight bytes and 128 of nibbles.
unsafe impl Quants for iq4_xs::Block {
    const LEN: usize = iq4_xs::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut integers = [[0.0f32; MAX_LANES]; 8];
            for lane in 0..V::LEN {
                let scales = (*rows[lane].add(at).cast::<iq4_xs::Head>()).scales();
                for s in 0..8 {
                    integers[s][lane] = f32::from(scales[s]) - 32.0;
                }
            }
            let [d, _] = two_halves::<V>(rows, at);
            for s in 0..8 {
                to.scale(s, d.mul(V::load(integers[s].as_ptr())), d);
                for (h, nibbles) in nibbles::<V>(rows, at + 8 + 16 * s).into_iter().enumerate() {
                    for j in 0..4 {
                        to.quants(8 * s + 4 * h + j, V::lookup_bytes(&iq4_nl::NUMBERS, nibbles[j]));
                    }
                }
            }
        }
    }
}

// SAFETY: a block is an exponent and 16 bytes of nibbles.
unsafe impl Quants for mxfp4::Block {
    const LEN: usize = mxfp4::LEN;

    #[inline(always)]
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut powers = [0.0f32; MAX_LANES];
            for lane in 0..V::LEN {
                powers[lane] = mxfp4::power(*rows[lane].add(at));
            }
            let d = V::load(powers.as_ptr());
            to.scale(0, d, d);
            for (h, nibbles) in nibbles::<V>(rows, at + 1).into_iter().enumerate() {
                for j in 0..4 {
                    to.quants(4 * h + j, V::lookup_bytes(&mxfp4::NUMBERS, nibbles[j]));
                }
            }
        }
    }
}
