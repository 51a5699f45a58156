//! Weight rows dequantized into a panel, one row to a lane.
//!
//! Sixteen bytes of each row are loaded as four vectors of words, one row to a lane; what a format keeps in them comes out with
//! shifts and masks, the same for all lanes.

use std::ops::Range;

use crate::backend::cpu::simd::vector::{MAX_LANES, Vector};
use crate::quant::block::Half;
use crate::quant::float::{Brain, Single};
use crate::quant::k_scales::Head;
use crate::quant::{Weight, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Where the weights of a lot of lanes go.
#[derive(Clone, Copy)]
struct Panel {
    to: *mut f32,
    /// f32s from one weight of a row to the next.
    width: usize,
}

impl Panel {
    #[inline(always)]
    unsafe fn set<V: Vector>(self, k: usize, w: V) {
        // SAFETY: the callers have room for weight k.
        unsafe { w.store(self.to.add(k * self.width)) }
    }

    /// From weight k on.
    #[inline(always)]
    unsafe fn at(self, k: usize) -> Self {
        // SAFETY: as above.
        Self { to: unsafe { self.to.add(k * self.width) }, ..self }
    }
}

/// A row to a lane.
type Rows = [*const u8; MAX_LANES];

/// How a format's weights come out of its bytes.
///
/// # Safety
/// `unpack` reads no more than a group.
unsafe trait Group {
    /// Weights in a group.
    const LEN: usize;

    /// Unpacks the groups at the byte `at` of each row.
    ///
    /// # Safety
    /// The processor has the instruction set, the groups can be read, and the panel has room for them.
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel);
}

/// Writes `depth` weights from weight k on of the rows `rows`, at most `V::LEN`, to `panel[i * width..][..V::LEN]`, i from 0 on.
/// Lanes beyond the rows have any numbers.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(in super::super) unsafe fn unpack<V: Vector>(
    weight: &Weight,
    rows: Range<usize>,
    k: usize,
    depth: usize,
    panel: &mut [f32],
    width: usize,
) {
    let row_bytes = weight.row_bytes();
    let bytes: &[u8] = &weight.bytes;
    assert!(!rows.is_empty() && rows.end * row_bytes <= bytes.len() && k + depth <= weight.row_len());
    assert!(panel.len() >= (depth - 1) * width + V::LEN, "room for the panel");
    let row: Rows = std::array::from_fn(|i| bytes[(rows.start + i).min(rows.end - 1) * row_bytes..].as_ptr());
    let panel = Panel { to: panel.as_mut_ptr(), width };
    // SAFETY: there is room for the weights, and each group lies within its row.
    unsafe {
        match weight.format.name {
            "F32" => groups::<V, Single>(weight, &row, k, depth, panel),
            "F16" => groups::<V, Half>(weight, &row, k, depth, panel),
            "BF16" => groups::<V, Brain>(weight, &row, k, depth, panel),
            "Q4_0" => groups::<V, q4_0::Block>(weight, &row, k, depth, panel),
            "Q4_1" => groups::<V, q4_1::Block>(weight, &row, k, depth, panel),
            "Q5_0" => groups::<V, q5_0::Block>(weight, &row, k, depth, panel),
            "Q5_1" => groups::<V, q5_1::Block>(weight, &row, k, depth, panel),
            "Q8_0" => groups::<V, q8_0::Block>(weight, &row, k, depth, panel),
            "Q4_K" => groups::<V, q4_k::Block>(weight, &row, k, depth, panel),
            "Q5_K" => groups::<V, q5_k::Block>(weight, &row, k, depth, panel),
            "Q6_K" => groups::<V, q6_k::Block>(weight, &row, k, depth, panel),
            name => unreachable!("no kernel for {name}"),
        }
    }
}

/// Goes through groups of `LEN` weights, and what is left of a row of floats.
#[inline(always)]
unsafe fn groups<V: Vector, F: Group>(weight: &Weight, rows: &Rows, k: usize, depth: usize, panel: Panel) {
    let whole = depth - depth % F::LEN;
    // What the rows after these have in as many groups, in the order of addresses.
    let next = rows[0].wrapping_add(V::LEN * weight.row_bytes());
    let step = V::LEN * weight.format.bytes(F::LEN.next_multiple_of(weight.format.block_len));
    for i in (0..whole).step_by(F::LEN) {
        // SAFETY: there is room for as many weights.
        unsafe {
            for line in (0..step).step_by(64) {
                V::prefetch(next.wrapping_add(i / F::LEN * step + line), false);
            }
            F::unpack::<V>(rows, weight.format.bytes(k + i), panel.at(i));
        }
    }
    for i in whole..depth {
        // Blocks are whole groups: these are floats, one by one.
        let (at, len) = (weight.format.bytes(k + i), weight.format.bytes(1));
        for (lane, row) in rows.iter().take(V::LEN).enumerate() {
            let mut number = [0.0];
            // SAFETY: the weight lies in the row, and the lane in the panel.
            unsafe {
                (weight.format.dequantize)(std::slice::from_raw_parts(row.add(at), len), &mut number);
                panel.at(i).to.add(lane).write(number[0]);
            }
        }
    }
}

// SAFETY: 16 bytes, of four numbers.
unsafe impl Group for Single {
    const LEN: usize = 4;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises; so it is for all that follow.
        unsafe {
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                panel.set(j, V::from_bits(words));
            }
        }
    }
}

// SAFETY: 16 bytes, of eight numbers.
unsafe impl Group for Half {
    const LEN: usize = 8;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: see `Single`.
        unsafe {
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                panel.set(2 * j, V::from_half_bits(words));
                panel.set(2 * j + 1, V::from_half_bits(V::shift_right(words, 16)));
            }
        }
    }
}

// SAFETY: 16 bytes, of eight numbers.
unsafe impl Group for Brain {
    const LEN: usize = 8;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: see `Single`. A brain float is the upper half of a single.
        unsafe {
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                panel.set(2 * j, V::from_bits(V::shift_left(words, 16)));
                panel.set(2 * j + 1, V::from_bits(V::and(words, V::splat_ints(0xffff_0000))));
            }
        }
    }
}

/// The halves at the byte `at` of each row, two of them.
#[inline(always)]
unsafe fn two_halves<V: Vector>(rows: &Rows, at: usize) -> [V; 2] {
    // SAFETY: the callers have four bytes there.
    unsafe {
        let words = words::<V>(rows, at);
        [V::from_half_bits(words), V::from_half_bits(V::shift_right(words, 16))]
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

// SAFETY: a block is a half and 16 bytes of nibbles.
unsafe impl Group for q4_0::Block {
    const LEN: usize = q4_0::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
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
        // SAFETY: see `Single`.
        unsafe {
            let mut halves = [0u32; MAX_LANES];
            for lane in 0..V::LEN {
                halves[lane] = rows[lane].add(at + 208).cast::<u16>().read_unaligned().into();
            }
            let d = V::from_half_bits(V::load_ints(halves.as_ptr()));
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
