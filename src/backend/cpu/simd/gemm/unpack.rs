//! Weight rows taken apart, one row to a lane: dequantized into a panel, or as the integers that a file has.
//!
//! Sixteen bytes of each row are loaded as four vectors of words, one row to a lane; what a format keeps in them comes out with
//! shifts and masks, the same for all lanes.

use std::marker::PhantomData;
use std::ops::Range;

use crate::backend::cpu::simd::scales::with_block;
use crate::backend::cpu::simd::vector::{MAX_LANES, Vector, prefetch};
use crate::quant::Weight;
use crate::quant::block::Half;
use crate::quant::float::{Brain, Single};

/// Where the weights of a lot of lanes go.
#[derive(Clone, Copy)]
pub(super) struct Panel {
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
pub(in super::super) type Rows = [*const u8; MAX_LANES];

/// What weights of block formats are given to: a weight is `scale · q` or `scale · q + min`.
///
/// A trait with its own functions rather than two closures, since the compiler does not inline these everywhere, and what is not
/// inlined may not use the instructions.
///
/// # Safety
/// The processor has the instruction set of `V`.
pub(in super::super) unsafe trait Keep<V: Vector> {
    /// Those of sub-block s of a group; all come before its quants. `min` is any number if the format has no offsets.
    unsafe fn scale(&mut self, s: usize, scale: V, min: V);

    /// Four weights of a group, from weight 4i on: signed bytes, the first one lowest.
    unsafe fn quants(&mut self, i: usize, q: V::Ints);
}

/// A block format, as the struct of a block. These are the groups of a row: scales of sub-blocks, and quants.
///
/// # Safety
/// No more than a group is read.
pub(in super::super) unsafe trait Quants: Sized {
    /// Weights in a group.
    const LEN: usize;
    /// Weights in a sub-block: those that share a scale.
    const SUB_LEN: usize = 32;
    /// Whether there are offsets.
    const MINS: bool = false;

    /// Takes the groups at the byte `at` of each row apart.
    ///
    /// # Safety
    /// The processor has the instruction set, the groups can be read, and `to` has room for them.
    unsafe fn take_apart<V: Vector>(rows: &Rows, at: usize, to: &mut impl Keep<V>);
}

/// How a format's weights come out of its bytes.
///
/// # Safety
/// `unpack` reads no more than a group.
pub(super) unsafe trait Group {
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
            _ => with_block!(weight.format, B => groups::<V, B>(weight, &row, k, depth, panel)),
        }
    }
}

/// Goes through groups of `LEN` weights, and what is left of a row of floats.
#[inline(always)]
unsafe fn groups<V: Vector, F: Group>(weight: &Weight, rows: &Rows, k: usize, depth: usize, panel: Panel) {
    let whole = depth - depth % F::LEN;
    // What the rows after these have in as many groups.
    let next = rows[0].wrapping_add(V::LEN * weight.row_bytes());
    let step = V::LEN * weight.format.bytes(F::LEN.next_multiple_of(weight.format.block_len));
    for i in (0..whole).step_by(F::LEN) {
        // SAFETY: there is room for as many weights.
        unsafe {
            prefetch::<V>(next.wrapping_add(i / F::LEN * step), step, false);
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

/// Sub-blocks of a group, at most.
const SUB_BLOCKS: usize = 16;

/// Weights on their way into a panel.
struct Dequantize<V, F> {
    panel: Panel,
    scales: [[V; 2]; SUB_BLOCKS],
    format: PhantomData<F>,
}

// SAFETY: as `Keep` says.
unsafe impl<V: Vector, F: Quants> Keep<V> for Dequantize<V, F> {
    #[inline(always)]
    unsafe fn scale(&mut self, s: usize, scale: V, min: V) {
        self.scales[s] = [scale, min];
    }

    #[inline(always)]
    unsafe fn quants(&mut self, i: usize, q: V::Ints) {
        let [scale, min] = self.scales[4 * i / F::SUB_LEN];
        for b in 0..4 {
            // SAFETY: as the caller promises.
            unsafe {
                let q = V::from_ints(V::shift_right_signed(V::shift_left(q, 24 - 8 * b as u32), 24));
                self.panel.set(4 * i + b, if F::MINS { min.mul_add(scale, q) } else { scale.mul(q) });
            }
        }
    }
}

// SAFETY: as `Quants` says.
unsafe impl<F: Quants> Group for F {
    const LEN: usize = F::LEN;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as the caller promises; so it is for all that follow.
        unsafe {
            let scales = [[V::splat(0.0); 2]; SUB_BLOCKS];
            F::take_apart::<V>(rows, at, &mut Dequantize { panel, scales, format: PhantomData::<F> });
        }
    }
}

// SAFETY: 16 bytes, of four numbers.
unsafe impl Group for Single {
    const LEN: usize = 4;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(rows: &Rows, at: usize, panel: Panel) {
        // SAFETY: as above.
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
        // SAFETY: as above.
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
        // SAFETY: as above. A brain float is the upper half of a single.
        unsafe {
            for (j, words) in V::columns(rows, at).into_iter().enumerate() {
                panel.set(2 * j, V::from_bits(V::shift_left(words, 16)));
                panel.set(2 * j + 1, V::from_bits(V::and(words, V::splat_ints(0xffff_0000))));
            }
        }
    }
}
