//! Products of weight rows as they lie in the file with 16-bit activations, a block at a time.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::Order;
use super::formats::{Group, Unpack};
use super::multiply::{Half, Multiply};
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS, Line};
use crate::backend::cpu::simd::matvec::{Dots, WeightRow};
use crate::backend::cpu::simd::vector::Vector;

/// Blocks whose scales are loaded together.
const FOUR: usize = 4;

/// Products by `M`, which multiplies `R` rows together.
pub(super) struct Products<M, const R: usize>(PhantomData<M>);

// SAFETY: exactly the groups of a row are read.
unsafe impl<F: Unpack, M: Multiply<R>, const R: usize> Dots<F> for Products<M, R> {
    type Vector = Lanes;
    const ALONE: bool = false;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(rows: [WeightRow; N], x: [ActivationRow<'_>; T]) -> [[f32; T]; N] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        let mut units = [[rows[0]; R]; N];
        for (m, row) in rows.into_iter().enumerate() {
            // Where the last unit lacks a row, another stands in for it.
            units[m / R][m % R] = row;
        }
        let n_units = N.div_ceil(R);
        // SAFETY: as the caller promises.
        unsafe {
            let mut totals = [[vdupq_n_f32(0.0); T]; N];
            if F::GROUP == 1 {
                // Units share the activations of a block.
                totals = M::chunks::<F, N, T>(units, n_units, x);
            } else {
                // The blocks of a group share bytes, so that a unit's own are enough for all registers.
                for u in 0..n_units {
                    [totals[u]] = M::chunks::<F, 1, T>([units[u]], 1, x);
                }
            }
            let mut result = [[0.0; T]; N];
            for t in 0..T {
                for m in 0..N {
                    result[m][t] = M::sums(totals[m / R][t])[m % R];
                    if F::MINS {
                        result[m][t] += offsets::<F>(rows[m].mins, x[t]);
                    }
                }
            }
            result
        }
    }
}

/// The first `n` of `U` units with all rows of x, as sums that are still in lanes.
///
/// # Safety
/// The processor has the instruction set of `M`, and each row has the blocks that x has.
#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
#[inline(always)]
pub(super) unsafe fn chunks<F: Unpack, M: Multiply<R>, const U: usize, const T: usize, const R: usize>(
    units: [[WeightRow; R]; U],
    n: usize,
    x: [ActivationRow<'_>; T],
) -> [[float32x4_t; T]; U] {
    let n_blocks = x[0].n_blocks;
    let x_lines = x.map(|x| if M::ORDER == Order::Plain { x.q.as_ptr() } else { x.woven.as_ptr() });
    // SAFETY: the caller of `dots` promises that there are as many blocks everywhere.
    unsafe {
        let mut totals = [[vdupq_n_f32(0.0); T]; U];
        for c in 0..n_blocks.div_ceil(CHUNK_BLOCKS) {
            let chunk_bytes = CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES;
            for row in units[..n].iter().flatten() {
                row.prefetch::<Lanes>(c * chunk_bytes, chunk_bytes);
            }
            let (first, there) = (c * CHUNK_BLOCKS, CHUNK_BLOCKS.min(n_blocks - c * CHUNK_BLOCKS));
            let mut chunk =
                Chunk { units, n, x: x_lines, first, sums: [[vdupq_n_f32(0.0); T]; U], by: PhantomData::<(F, M)> };
            if F::GROUP == CHUNK_BLOCKS {
                // Unrolled: shifts are by constants then.
                chunk.add_four(0);
                chunk.add_four(FOUR);
            } else {
                for j in (0..there - there % FOUR).step_by(FOUR) {
                    chunk.add_four(j);
                }
                for j in there - there % FOUR..there {
                    chunk.add_one(j);
                }
            }
            for t in 0..T {
                let scale = *x[t].scales.as_ptr().add(c);
                for u in 0..n {
                    totals[u][t] = vfmaq_n_f32(totals[u][t], chunk.sums[u][t], scale);
                }
            }
        }
        totals
    }
}

/// A chunk of some units, and its sums with each row of x.
struct Chunk<By, const U: usize, const T: usize, const R: usize> {
    units: [[WeightRow; R]; U],
    /// Units that there are.
    n: usize,
    x: [*const Line; T],
    /// The block that it begins with.
    first: usize,
    sums: [[float32x4_t; T]; U],
    by: PhantomData<By>,
}

#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
impl<F: Unpack, M: Multiply<R>, const U: usize, const T: usize, const R: usize> Chunk<(F, M), U, T, R> {
    /// Adds four blocks, from its block j on.
    ///
    /// # Safety
    /// They are there, and the processor has the instruction set; so it is for all that follow.
    #[inline(always)]
    unsafe fn add_four(&mut self, j: usize) {
        let b = self.first + j;
        // SAFETY: as the caller promises.
        unsafe {
            let mut scales = [Scales([[vdupq_n_f32(0.0); R]; 2]); U];
            for u in 0..self.n {
                scales[u] = if F::SUB_SCALES {
                    Scales::of_halves::<F>(self.units[u], b / F::GROUP, j)
                } else {
                    Scales::of_blocks(self.units[u], b)
                };
            }
            // By hand, since the compiler would rather keep the scales in memory and loop over blocks.
            self.add_to_each::<0>(j, &scales);
            self.add_to_each::<1>(j, &scales);
            self.add_to_each::<2>(j, &scales);
            self.add_to_each::<3>(j, &scales);
        }
    }

    /// Adds block j + `I` to all units, `I` below four.
    #[inline(always)]
    unsafe fn add_to_each<const I: usize>(&mut self, j: usize, scales: &[Scales<R>; U]) {
        const { assert!(U <= 4) };
        // By hand, too: a loop that is as long is not always unrolled.
        // SAFETY: as the caller promises.
        unsafe {
            self.add(0, j + I, scales[0].block::<F, I>());
            if self.n > 1 {
                self.add(1 % U, j + I, scales[1 % U].block::<F, I>());
            }
            if self.n > 2 {
                self.add(2 % U, j + I, scales[2 % U].block::<F, I>());
            }
            if self.n > 3 {
                self.add(3 % U, j + I, scales[3 % U].block::<F, I>());
            }
        }
    }

    /// Adds block j, of a format of one block to a group.
    #[inline(always)]
    unsafe fn add_one(&mut self, j: usize) {
        for u in 0..self.n {
            // SAFETY: as the caller promises.
            unsafe {
                let mut scales = [vdupq_n_f32(0.0); R];
                for i in 0..R {
                    scales[i] = vdupq_n_f32(*self.units[u][i].scales.add(self.first + j));
                }
                let scale = spread::<R, 0>(scales);
                self.add(u, j, [scale; 2]);
            }
        }
    }

    /// Adds block j of unit u; each half of it has a scale.
    #[inline(always)]
    unsafe fn add(&mut self, u: usize, j: usize, scales: [float32x4_t; 2]) {
        // SAFETY: as the caller promises.
        unsafe {
            let (group, in_group) = ((self.first + j) / F::GROUP, (self.first + j) % F::GROUP);
            let mut rows = [std::ptr::null(); R];
            for i in 0..R {
                rows[i] = self.units[u][i].bytes.add(group * F::GROUP_BYTES);
            }
            let q = F::quants(Group(rows), in_group);
            for t in 0..T {
                let x = halves(self.x[t].add(self.first + j));
                let sum = &mut self.sums[u][t];
                if !F::SUB_SCALES {
                    *sum = vfmaq_f32(*sum, vcvtq_f32_s32(M::multiply(q, x)), scales[0]);
                } else {
                    for h in 0..2 {
                        *sum = vfmaq_f32(*sum, vcvtq_f32_s32(M::multiply([q[h]], [x[h]])), scales[h]);
                    }
                }
            }
        }
    }
}

/// The activations of a block.
#[inline(always)]
unsafe fn halves(line: *const Line) -> [Half; 2] {
    // SAFETY: the callers have a line there.
    unsafe {
        let quarter = |i: usize| vld1q_u8(line.cast::<u8>().add(16 * i));
        [[quarter(0), quarter(1)], [quarter(2), quarter(3)]]
    }
}

/// The scales of four blocks of a unit: a lane each, in the first register of each row, or of their eight halves in both.
#[derive(Clone, Copy)]
struct Scales<const R: usize>([[float32x4_t; R]; 2]);

impl<const R: usize> Scales<R> {
    /// From block b on.
    #[inline(always)]
    unsafe fn of_blocks(rows: [WeightRow; R], b: usize) -> Self {
        // SAFETY: the callers have four blocks there.
        unsafe {
            let mut scales = [vdupq_n_f32(0.0); R];
            for i in 0..R {
                scales[i] = vld1q_f32(rows[i].scales.add(b));
            }
            Self([scales; 2])
        }
    }

    /// The scale of group g times those of the eight halves from its block `j` on.
    #[inline(always)]
    unsafe fn of_halves<F: Unpack>(rows: [WeightRow; R], g: usize, j: usize) -> Self {
        // SAFETY: the callers have NEON, and such a group.
        unsafe {
            let mut scales = [[vdupq_n_f32(0.0); R]; 2];
            for i in 0..R {
                let bytes = vmovl_s8(F::sub_scales(rows[i].bytes.add(g * F::GROUP_BYTES), j));
                let integers = [vmovl_s16(vget_low_s16(bytes)), vmovl_high_s16(bytes)];
                for h in 0..2 {
                    scales[h][i] = vmulq_n_f32(vcvtq_f32_s32(integers[h]), *rows[i].scales.add(g));
                }
            }
            Self(scales)
        }
    }

    /// Of the halves of block `I` of the four.
    #[inline(always)]
    unsafe fn block<F: Unpack, const I: usize>(self) -> [float32x4_t; 2] {
        // SAFETY: as above.
        unsafe {
            match (F::SUB_SCALES, I) {
                (true, 0 | 2) => [spread::<R, 0>(self.0[I / 2]), spread::<R, 1>(self.0[I / 2])],
                (true, _) => [spread::<R, 2>(self.0[I / 2]), spread::<R, 3>(self.0[I / 2])],
                (false, 0) => [spread::<R, 0>(self.0[0]); 2],
                (false, 1) => [spread::<R, 1>(self.0[0]); 2],
                (false, 2) => [spread::<R, 2>(self.0[0]); 2],
                (false, _) => [spread::<R, 3>(self.0[0]); 2],
            }
        }
    }
}

/// Lane `L` of each row in the lanes of the row: in all four, or in two and two.
#[inline(always)]
unsafe fn spread<const R: usize, const L: i32>(rows: [float32x4_t; R]) -> float32x4_t {
    // SAFETY: the callers have NEON.
    unsafe {
        if R == 1 {
            return vdupq_laneq_f32::<L>(rows[0]);
        }
        let [a, b] = [rows[0], rows[1 % R]];
        let pairs = if L < 2 { vzip1q_f32(a, b) } else { vzip2q_f32(a, b) };
        if L % 2 == 0 { vzip1q_f32(pairs, pairs) } else { vzip2q_f32(pairs, pairs) }
    }
}

/// Σ min · (sum of the block's activations, or of half a block's).
#[inline(always)]
unsafe fn offsets<F: Unpack>(mins: *const f32, x: ActivationRow<'_>) -> f32 {
    // SAFETY: as many offsets as blocks or halves of them, and sums up to a whole chunk; behind the row's own offsets are
    // those of the next.
    unsafe {
        let mut total = Lanes::splat(0.0);
        let (sums, n) = x.sums_for::<F>();
        for b in (0..n).step_by(Lanes::LEN) {
            let mins = Lanes::load_first(mins.add(b), n - b);
            total = total.mul_add(mins, Lanes::load(sums.as_ptr().add(b)));
        }
        total.sum()
    }
}

const _: () = assert!(CHUNK_BLOCKS == 2 * FOUR && Lanes::LEN == FOUR);
