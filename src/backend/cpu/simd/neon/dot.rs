//! Products of weight rows as they lie in the file with 16-bit activations, a block at a time.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::formats::{Group, Unpack};
use super::multiply::{Half, Multiply};
use super::vector::Lanes;
use super::{AHEAD, Order};
use crate::backend::cpu::simd::activations::{ActivationRow, CHUNK_BLOCKS};
use crate::backend::cpu::simd::matvec::{Dots, WeightRow};
use crate::backend::cpu::simd::vector::Vector;

/// Blocks whose scales are loaded together.
const FOUR: usize = 4;

/// Products by `M`, which multiplies `R` rows together.
pub(super) struct Products<M, const R: usize>(PhantomData<M>);

// SAFETY: exactly the groups of a row are read.
unsafe impl<F: Unpack, M: Multiply<R>, const R: usize> Dots<F> for Products<M, R> {
    type Vector = Lanes;
    const BEYOND: usize = 0;
    const REGISTERS: usize = Lanes::REGISTERS;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(rows: [WeightRow; N], x: [ActivationRow<'_>; T]) -> [[f32; T]; N] {
        const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
        let n_blocks = x[0].n_blocks;
        let rows = units::<N, R>(rows);
        // SAFETY: as the caller promises.
        unsafe {
            // Of units of R rows, of which there are N at most.
            let mut totals = [[vdupq_n_f32(0.0); T]; N];
            for c in 0..n_blocks.div_ceil(CHUNK_BLOCKS) {
                let mut sums = Sums::<F, M, N, T, R>::new();
                let (first, there) = (c * CHUNK_BLOCKS, CHUNK_BLOCKS.min(n_blocks - c * CHUNK_BLOCKS));
                if F::GROUP == CHUNK_BLOCKS {
                    // Unrolled: shifts are by constants then.
                    sums.add_four(&rows, &x, first, 0);
                    sums.add_four(&rows, &x, first, FOUR);
                } else {
                    for j in (0..there - there % FOUR).step_by(FOUR) {
                        sums.add_four(&rows, &x, first, j);
                    }
                    for j in there - there % FOUR..there {
                        sums.add_one(&rows, &x, first + j);
                    }
                }
                for t in 0..T {
                    let scale = *x[t].scales.as_ptr().add(c);
                    for u in 0..N.div_ceil(R) {
                        totals[u][t] = vfmaq_n_f32(totals[u][t], sums.lanes[u][t], scale);
                    }
                }
            }
            let mut result = [[0.0; T]; N];
            for t in 0..T {
                for m in 0..N {
                    result[m][t] = M::sums(totals[m / R][t])[m % R];
                    if F::MINS {
                        result[m][t] += offsets(rows[m / R][m % R].mins, x[t]);
                    }
                }
            }
            result
        }
    }
}

/// Rows in units of `R`; where the last one lacks a row, another stands in for it.
#[inline(always)]
fn units<const N: usize, const R: usize>(rows: [WeightRow; N]) -> [[WeightRow; R]; N] {
    let mut units = [[rows[0]; R]; N];
    for (m, row) in rows.into_iter().enumerate() {
        units[m / R][m % R] = row;
    }
    units
}

/// The sums of a chunk, of each unit with each row of x.
struct Sums<F, M, const N: usize, const T: usize, const R: usize> {
    lanes: [[float32x4_t; T]; N],
    by: PhantomData<(F, M)>,
}

impl<F: Unpack, M: Multiply<R>, const N: usize, const T: usize, const R: usize> Sums<F, M, N, T, R> {
    /// Units of R rows.
    const UNITS: usize = N.div_ceil(R);

    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the callers have NEON.
        Self { lanes: [[unsafe { vdupq_n_f32(0.0) }; T]; N], by: PhantomData }
    }

    /// Adds four blocks: from block j of the chunk on that begins with block `first`.
    #[inline(always)]
    unsafe fn add_four(&mut self, rows: &[[WeightRow; R]; N], x: &[ActivationRow<'_>; T], first: usize, j: usize) {
        let b = first + j;
        // SAFETY: the caller of `dots` promises that there are as many blocks everywhere.
        unsafe {
            let step = FOUR * N * F::GROUP_BYTES / F::GROUP;
            for line in (0..step).step_by(64) {
                Lanes::prefetch(rows[0][0].bytes.wrapping_add(AHEAD + b / FOUR * step + line), true);
            }
            let mut scales = [[[vdupq_n_f32(0.0); 2]; FOUR]; N];
            for u in 0..Self::UNITS {
                scales[u] = match F::SUB_SCALES {
                    None => of_four(rows[u].map(|row| vld1q_f32(row.scales.add(b)))).map(|scale| [scale; 2]),
                    Some(at) => of_halves(rows[u], first / CHUNK_BLOCKS, first / F::GROUP * F::GROUP_BYTES + at, j),
                };
            }
            self.add::<FOUR>(rows, x, first, j, |u, i| scales[u][i]);
        }
    }

    /// Adds block b, of a format of one block to a group.
    #[inline(always)]
    unsafe fn add_one(&mut self, rows: &[[WeightRow; R]; N], x: &[ActivationRow<'_>; T], b: usize) {
        // SAFETY: the caller of `dots` promises that there is such a block.
        unsafe {
            self.add::<1>(rows, x, b, 0, |u, _| [of_four(rows[u].map(|row| vdupq_n_f32(*row.scales.add(b))))[0]; 2]);
        }
    }

    /// Adds `I` blocks, each half of which has a scale in its unit.
    #[inline(always)]
    unsafe fn add<const I: usize>(
        &mut self,
        rows: &[[WeightRow; R]; N],
        x: &[ActivationRow<'_>; T],
        first: usize,
        j: usize,
        scales: impl Fn(usize, usize) -> [float32x4_t; 2],
    ) {
        for i in 0..I {
            // SAFETY: the callers promise the blocks.
            unsafe {
                let b = first + j + i;
                let (group, in_group) = if F::GROUP == 1 { (b, 0) } else { (first / F::GROUP, j + i) };
                let x: [[Half; 2]; T] = std::array::from_fn(|t| halves::<M, R>(x[t], b));
                for u in 0..Self::UNITS {
                    let group = Group(rows[u].map(|row| row.bytes.add(group * F::GROUP_BYTES)));
                    let (q, scales) = (F::quants(group, in_group), scales(u, i));
                    for t in 0..T {
                        let sum = &mut self.lanes[u][t];
                        if F::SUB_SCALES.is_none() {
                            *sum = vfmaq_f32(*sum, vcvtq_f32_s32(M::multiply(q, x[t])), scales[0]);
                        } else {
                            for h in 0..2 {
                                let of_half = vcvtq_f32_s32(M::multiply([q[h]], [x[t][h]]));
                                *sum = vfmaq_f32(*sum, of_half, scales[h]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The activations of block b.
#[inline(always)]
unsafe fn halves<M: Multiply<R>, const R: usize>(x: ActivationRow<'_>, b: usize) -> [Half; 2] {
    let lines = if M::ORDER == Order::Plain { x.q.as_ptr() } else { x.woven.as_ptr() };
    // SAFETY: the callers have a line b.
    unsafe {
        let p = lines.add(b).cast::<u8>();
        [0, 32].map(|at| [vld1q_u8(p.add(at)), vld1q_u8(p.add(at + 16))])
    }
}

/// The scales of four blocks, each in the lanes of its row: all four, or two and two.
#[inline(always)]
unsafe fn of_four<const R: usize>(rows: [float32x4_t; R]) -> [float32x4_t; FOUR] {
    // SAFETY: the callers have NEON.
    unsafe {
        if R == 1 {
            let row = rows[0];
            [vdupq_laneq_f32::<0>(row), vdupq_laneq_f32::<1>(row), vdupq_laneq_f32::<2>(row), vdupq_laneq_f32::<3>(row)]
        } else {
            let pairs = [vzip1q_f32(rows[0], rows[1 % R]), vzip2q_f32(rows[0], rows[1 % R])];
            let [[a, b], [c, d]] = pairs.map(|pair| [vzip1q_f32(pair, pair), vzip2q_f32(pair, pair)]);
            [a, b, c, d]
        }
    }
}

/// The scales of the halves of the four blocks from j on in group g: those of the group times the bytes at `at` of the row.
#[inline(always)]
unsafe fn of_halves<const R: usize>(rows: [WeightRow; R], g: usize, at: usize, j: usize) -> [[float32x4_t; 2]; FOUR] {
    // SAFETY: the callers have NEON, and 16 bytes there.
    unsafe {
        let floats = rows.map(|row| {
            let bytes = vmovl_s8(vld1_s8(row.bytes.add(at + 2 * j).cast()));
            let integers = [vmovl_s16(vget_low_s16(bytes)), vmovl_high_s16(bytes)];
            integers.map(|integers| vmulq_n_f32(vcvtq_f32_s32(integers), *row.scales.add(g)))
        });
        let [[a, b, c, d], [e, f, g, h]] = [of_four(floats.map(|row| row[0])), of_four(floats.map(|row| row[1]))];
        [[a, b], [c, d], [e, f], [g, h]]
    }
}

/// Σ min · (sum of the block's activations).
#[inline(always)]
unsafe fn offsets(mins: *const f32, x: ActivationRow<'_>) -> f32 {
    // SAFETY: as many offsets as blocks, and sums up to a whole chunk; behind the row's own offsets are those of the next.
    unsafe {
        let mut total = Lanes::splat(0.0);
        for b in (0..x.n_blocks).step_by(Lanes::LEN) {
            let mins = Lanes::load_first(mins.add(b), x.n_blocks - b);
            total = total.mul_add(mins, Lanes::load(x.sums.as_ptr().add(b)));
        }
        total.sum()
    }
}

const _: () = assert!(CHUNK_BLOCKS == 2 * FOUR && Lanes::LEN == FOUR);
