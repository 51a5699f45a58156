//! The block formats, for panels: all that a new format has to say here.

use super::unpack::{Group, Panel, Rows};
use crate::backend::cpu::simd::vector::{MAX_LANES, Vector};
use crate::quant::k_scales::Head;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// The halves at the byte `at` of each row, two of them.
#[inline(always)]
unsafe fn two_halves<V: Vector>(rows: &Rows, at: usize) -> [V; 2] {
    // SAFETY: the callers have four bytes there.
    unsafe {
        let words = words::<V>(rows, at);
        [V::from_half_bits(words), V::from_half_bits(V::shift_right(words, 16))]
    }
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

/// The four bytes at the byte `at` of each row.
#[inline(always)]
unsafe fn words<V: Vector>(rows: &Rows, at: usize) -> V::Ints {
    let mut words = [0u32; MAX_LANES];
    // SAFETY: the callers have four bytes there.
    unsafe {
        for i in 0..V::LEN {
            words[i] = rows[i].add(at).cast::<u32>().read_unaligned();
        }
        V::load_ints(words.as_ptr())
    }
}

/// Bits `from..from + n` of words, at bits `to..`; `from` and `to` are constants once loops are unrolled.
#[inline(always)]
unsafe fn bits<V: Vector>(words: V::Ints, from: u32, n: u32, to: u32) -> V::Ints {
    // SAFETY: the callers have the instruction set.
    unsafe {
        let moved = if from >= to { V::shift_right(words, from - to) } else { V::shift_left(words, to - from) };
        V::and(moved, V::splat_ints(((1 << n) - 1) << to))
    }
}

/// Unpacks 16 bytes of nibbles, the weights `low..` and `high..`, as `weight(k, q)` says for weight k.
#[inline(always)]
unsafe fn nibbles<V: Vector>(
    columns: [V::Ints; 4],
    [low, high]: [usize; 2],
    panel: Panel,
    mut weight: impl FnMut(usize, V::Ints) -> V,
) {
    for (j, words) in columns.into_iter().enumerate() {
        for b in 0..4 {
            let (i, at) = (4 * j + b, 8 * b as u32);
            // SAFETY: as the caller's caller promises.
            unsafe {
                panel.set(low + i, weight(low + i, bits::<V>(words, at, 4, 0)));
                panel.set(high + i, weight(high + i, bits::<V>(words, at + 4, 4, 0)));
            }
        }
    }
}

// SAFETY: a block is a half and 16 bytes of nibbles, as the struct has them; so it is for all that follow.
unsafe impl Group for q4_0::Block {
    const LEN: usize = q4_0::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, _] = two_halves::<V>(rows, at);
            let min = d.mul(V::splat(-8.0));
            nibbles::<V>(V::columns(rows, at + 2), [0, 16], panel, |_, q| min.mul_add(d, V::from_ints(q)));
        }
    }
}

// SAFETY: a block is two halves and 16 bytes of nibbles.
unsafe impl Group for q4_1::Block {
    const LEN: usize = q4_1::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, min] = two_halves::<V>(rows, at);
            nibbles::<V>(V::columns(rows, at + 4), [0, 16], panel, |_, q| min.mul_add(d, V::from_ints(q)));
        }
    }
}

// SAFETY: a block is a half, four bytes of fifth bits, and 16 bytes of nibbles.
unsafe impl Group for q5_0::Block {
    const LEN: usize = q5_0::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, _] = two_halves::<V>(rows, at);
            let min = d.mul(V::splat(-16.0));
            let fifths = words::<V>(rows, at + 2);
            nibbles::<V>(V::columns(rows, at + 6), [0, 16], panel, |k, q| {
                min.mul_add(d, V::from_ints(V::or(q, bits::<V>(fifths, k as u32, 1, 4))))
            });
        }
    }
}

// SAFETY: a block is two halves, four bytes of fifth bits, and 16 bytes of nibbles.
unsafe impl Group for q5_1::Block {
    const LEN: usize = q5_1::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, min] = two_halves::<V>(rows, at);
            let fifths = words::<V>(rows, at + 4);
            nibbles::<V>(V::columns(rows, at + 8), [0, 16], panel, |k, q| {
                min.mul_add(d, V::from_ints(V::or(q, bits::<V>(fifths, k as u32, 1, 4))))
            });
        }
    }
}

// SAFETY: a block is a half and 32 bytes.
unsafe impl Group for q8_0::Block {
    const LEN: usize = q8_0::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, _] = two_halves::<V>(rows, at);
            for half in 0..2 {
                for (j, words) in V::columns(rows, at + 2 + 16 * half).into_iter().enumerate() {
                    for b in 0..4 {
                        let q = V::shift_right_signed(V::shift_left(words, 24 - 8 * b as u32), 24);
                        panel.set(16 * half + 4 * j + b, d.mul(V::from_ints(q)));
                    }
                }
            }
        }
    }
}

/// The scales and the offsets of the eight sub-blocks of heads, one head to a lane.
#[inline(always)]
unsafe fn heads<V: Vector>(rows: &Rows, at: usize) -> [[V; 2]; 8] {
    let mut integers = [[[0.0f32; MAX_LANES]; 2]; 8];
    // SAFETY: the callers have a head there.
    unsafe {
        for lane in 0..V::LEN {
            let (scales, mins) = (*rows[lane].add(at).cast::<Head>()).unpack_integers();
            for s in 0..8 {
                integers[s][0][lane] = f32::from(scales[s]);
                integers[s][1][lane] = f32::from(mins[s]);
            }
        }
        let [d, dmin] = two_halves::<V>(rows, at);
        let dmin = V::splat(0.0).sub(dmin);
        let mut heads = [[d; 2]; 8];
        for s in 0..8 {
            heads[s] = [d.mul(V::load(integers[s][0].as_ptr())), dmin.mul(V::load(integers[s][1].as_ptr()))];
        }
        heads
    }
}

// SAFETY: a block is a head and 128 bytes of nibbles.
unsafe impl Group for q4_k::Block {
    const LEN: usize = q4_k::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let heads = heads::<V>(rows, at);
            for c in 0..8 {
                let first = 64 * (c / 2) + 16 * (c % 2);
                nibbles::<V>(V::columns(rows, at + 16 + 16 * c), [first, first + 32], panel, |k, q| {
                    let [d, min] = heads[k / 32];
                    min.mul_add(d, V::from_ints(q))
                });
            }
        }
    }
}

// SAFETY: a block is a head, 32 bytes of fifth bits, and 128 bytes of nibbles.
unsafe impl Group for q5_k::Block {
    const LEN: usize = q5_k::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let heads = heads::<V>(rows, at);
            let fifths = [V::columns(rows, at + 16), V::columns(rows, at + 32)];
            for c in 0..8 {
                let first = 64 * (c / 2) + 16 * (c % 2);
                nibbles::<V>(V::columns(rows, at + 48 + 16 * c), [first, first + 32], panel, |k, q| {
                    let ([d, min], i) = (heads[k / 32], k % 16);
                    let fifth = bits::<V>(fifths[c % 2][i / 4], 8 * (i % 4) as u32 + (k / 32) as u32, 1, 4);
                    min.mul_add(d, V::from_ints(V::or(q, fifth)))
                });
            }
        }
    }
}

// SAFETY: a block is 128 bytes of nibbles, 64 of upper bits, 16 scales and a half.
unsafe impl Group for q6_k::Block {
    const LEN: usize = q6_k::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let d = half::<V>(rows, at + 208);
            let mut scales = [[d; 2]; 16];
            for (j, words) in V::columns(rows, at + 192).into_iter().enumerate() {
                for b in 0..4 {
                    let scale = V::shift_right_signed(V::shift_left(words, 24 - 8 * b as u32), 24);
                    let scale = d.mul(V::from_ints(scale));
                    scales[4 * j + b] = [scale, scale.mul(V::splat(-32.0))];
                }
            }
            for c in 0..8 {
                // Sixteen bytes of nibbles: of weights 32k + 16s in half h, and 64 more.
                let (h, k, s) = (c / 4, c / 2 % 2, c % 2);
                let first = 128 * h + 32 * k + 16 * s;
                let upper = V::columns(rows, at + 128 + 32 * h + 16 * s);
                nibbles::<V>(V::columns(rows, at + 16 * c), [first, first + 64], panel, |w, q| {
                    let ([d, min], i) = (scales[w / 16], w % 16);
                    let upper = bits::<V>(upper[i / 4], 8 * (i % 4) as u32 + 2 * (w / 32 % 4) as u32, 2, 4);
                    min.mul_add(d, V::from_ints(V::or(q, upper)))
                });
            }
        }
    }
}

/// Unpacks 64 bytes of quants of two bits of the blocks of Q2_K and Q3_K, as `weight(k, q)` says for weight k.
#[inline(always)]
unsafe fn two_bits<V: Vector>(rows: &Rows, at: usize, panel: Panel, mut weight: impl FnMut(usize, V::Ints) -> V) {
    for c in 0..4 {
        // Sixteen bytes: of weights 16s in half h, and of 32, 64 and 96 more.
        let first = 128 * (c / 2) + 16 * (c % 2);
        // SAFETY: as the caller's caller promises.
        unsafe {
            for (j, words) in V::columns(rows, at + 16 * c).into_iter().enumerate() {
                for b in 0..4 {
                    for k in 0..4 {
                        let (i, bit) = (first + 32 * k + 4 * j + b, 8 * b + 2 * k);
                        panel.set(i, weight(i, bits::<V>(words, bit as u32, 2, 0)));
                    }
                }
            }
        }
    }
}

// SAFETY: a block is 16 scales, 64 bytes of quants and two halves.
unsafe impl Group for q2_k::Block {
    const LEN: usize = q2_k::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, dmin] = two_halves::<V>(rows, at + 80);
            let dmin = V::splat(0.0).sub(dmin);
            let mut scales = [[d; 2]; 16];
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                for b in 0..4 {
                    let nibble = |bit: usize| V::from_ints(bits::<V>(words, (8 * b + bit) as u32, 4, 0));
                    scales[4 * j + b] = [d.mul(nibble(0)), dmin.mul(nibble(4))];
                }
            }
            two_bits::<V>(rows, at + 16, panel, |k, q| {
                let [d, min] = scales[k / 16];
                min.mul_add(d, V::from_ints(q))
            });
        }
    }
}

// SAFETY: a block is 32 bytes of third bits, 64 of the two below them, 12 of scales and a half.
unsafe impl Group for q3_k::Block {
    const LEN: usize = q3_k::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut integers = [[0.0f32; MAX_LANES]; 16];
            for lane in 0..V::LEN {
                let scales = (*rows[lane].add(at + 96).cast::<q3_k::Scales>()).unpack();
                for s in 0..16 {
                    integers[s][lane] = f32::from(scales[s]) - 32.0;
                }
            }
            let d = half::<V>(rows, at + 108);
            let mut scales = [[d; 2]; 16];
            for s in 0..16 {
                let scale = d.mul(V::load(integers[s].as_ptr()));
                scales[s] = [scale, scale.mul(V::splat(-4.0))];
            }
            let thirds = [V::columns(rows, at), V::columns(rows, at + 16)];
            two_bits::<V>(rows, at + 32, panel, |k, q| {
                let ([d, min], i) = (scales[k / 16], k % 16);
                let third = bits::<V>(thirds[k / 16 % 2][i / 4], (8 * (i % 4) + k / 32) as u32, 1, 2);
                min.mul_add(d, V::from_ints(V::or(q, third)))
            });
        }
    }
}

/// What quants stand for, as numbers.
const fn numbers(table: &[i8; 16]) -> [f32; 16] {
    let mut numbers = [0.0; 16];
    let mut q = 0;
    while q < 16 {
        numbers[q] = table[q] as f32;
        q += 1;
    }
    numbers
}

const IQ4: [f32; 16] = numbers(&iq4_nl::NUMBERS);
const FP4: [f32; 16] = numbers(&mxfp4::NUMBERS);

// SAFETY: a block is a half and 16 bytes of nibbles.
unsafe impl Group for iq4_nl::Block {
    const LEN: usize = iq4_nl::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let [d, _] = two_halves::<V>(rows, at);
            nibbles::<V>(V::columns(rows, at + 2), [0, 16], panel, |_, q| d.mul(V::lookup(&IQ4, q)));
        }
    }
}

// SAFETY: a block is a head of eight bytes and 128 of nibbles.
unsafe impl Group for iq4_xs::Block {
    const LEN: usize = iq4_xs::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
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
            for (s, integers) in integers.iter().enumerate() {
                let (d, columns) = (d.mul(V::load(integers.as_ptr())), V::columns(rows, at + 8 + 16 * s));
                nibbles::<V>(columns, [32 * s, 32 * s + 16], panel, |_, q| d.mul(V::lookup(&IQ4, q)));
            }
        }
    }
}

// SAFETY: a block is an exponent and 16 bytes of nibbles.
unsafe impl Group for mxfp4::Block {
    const LEN: usize = mxfp4::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut powers = [0.0f32; MAX_LANES];
            for lane in 0..V::LEN {
                powers[lane] = mxfp4::power(*rows[lane].add(at));
            }
            let d = V::load(powers.as_ptr());
            nibbles::<V>(V::columns(rows, at + 1), [0, 16], panel, |_, q| d.mul(V::lookup(&FP4, q)));
        }
    }
}
