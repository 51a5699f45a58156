//! Products of one row of x with AVX2, and on Arm of a few, with weights as they lie in the file, which is read once, at the memory's speed.
//!
//! A task's rows are [`M`] parts of as many that follow each other, and [`M`] rows that are multiplied together are one of each:
//! memory gives more to some reads that go on side by side than to a single one. Rows are taken in lots that stay in the
//! first-level cache: their scales are unpacked, then they are multiplied. The multiplication itself is an instruction set's own
//! ([`Dots`]).

use super::activations::{ActivationRow, Activations, BLOCK};
use super::scales::{self, BlockScales, Scales};
use super::vector::{Vector, prefetch};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows that are multiplied together, and parts that are read side by side.
pub(super) const M: usize = 4;
/// Blocks in a lot, unless M rows are more.
const LOT_BLOCKS: usize = 256;
/// Bytes that are asked of memory before they are needed, beyond those of a lot.
const AHEAD: usize = 1024;

/// How an instruction set multiplies rows of the format `F`.
///
/// # Safety
/// `dots` reads no more than [`Weights`] says is there.
pub(super) unsafe trait Dots<F> {
    /// The registers of this instruction set.
    type Vector: Vector;
    /// Whether a row of x is always alone: several go another way.
    const ALONE: bool;

    /// The products of `N` weight rows with `T` rows of x.
    ///
    /// # Safety
    /// The processor has the instruction set, and each row has the blocks that x has.
    unsafe fn dots<const N: usize, const T: usize>(rows: [WeightRow; N], x: [ActivationRow<'_>; T]) -> [[f32; T]; N];
}

/// A weight row, and the scale and offset of each of its blocks (or groups, where their blocks share a scale).
#[derive(Clone, Copy)]
pub(super) struct WeightRow {
    pub(super) bytes: *const u8,
    /// From what is multiplied to what is asked of memory.
    pub(super) ahead: usize,
    pub(super) scales: *const f32,
    pub(super) mins: *const f32,
}

impl WeightRow {
    /// Asks memory for what follows the `n_bytes` that are read from byte `at` on.
    ///
    /// # Safety
    /// The processor has the instruction set of `V`.
    #[inline(always)]
    pub(super) unsafe fn prefetch<V: Vector>(self, at: usize, n_bytes: usize) {
        // SAFETY: as the caller promises.
        unsafe { prefetch::<V>(self.bytes.wrapping_add(self.ahead + at), n_bytes, true) };
    }
}

/// Weight rows in a lot: a multiple of M.
const fn lot_rows(n_blocks: usize) -> usize {
    let rows = LOT_BLOCKS / if n_blocks == 0 { 1 } else { n_blocks };
    if rows < M { M } else { rows - rows % M }
}

/// f32s of scratch that [`matvec`] needs for rows of `k` weights.
pub(super) fn scratch_len(k: usize) -> usize {
    let n_blocks = k.div_ceil(BLOCK);
    scales::scratch_len(lot_rows(n_blocks) * n_blocks)
}

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// # Safety
/// The processor has the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn matvec<F: BlockScales, D: Dots<F>>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    let rows = y.range();
    let n_blocks = x.n_blocks();
    let row_bytes = n_blocks / F::GROUP * F::GROUP_BYTES;
    assert!(row_bytes == weight.row_bytes() && n_blocks.is_multiple_of(F::GROUP), "rows of x and of the weight");
    let bytes = &weight.bytes[..rows.end * row_bytes];
    let mut scales = Scales::new(lot_rows(n_blocks) * n_blocks, scratch);
    let mut store = |t: usize, m: usize, sum: f32| y.set(t, m, bias.map_or(sum, |bias| sum + bias[m]));
    let (n_each, lot_each) = (rows.len() / M, lot_rows(n_blocks) / M);
    let whole = rows.start + M * n_each;
    let lots = (0..n_each).step_by(lot_each).map(|at| (rows.start + at, M, lot_each.min(n_each - at)));
    // What is left is fewer than M rows.
    let rest = (whole < rows.end).then_some((whole, 1, rows.end - whole));
    for (first, n_parts, n_rows) in lots.chain(rest) {
        for part in 0..n_parts {
            // SAFETY: the rows lie within the weight, and the processor has the instruction set.
            unsafe {
                let p = bytes[(first + part * n_each) * row_bytes..].as_ptr();
                scales.unpack::<F, D::Vector>(part * n_rows * n_blocks, p, n_rows * n_blocks / F::GROUP);
            }
        }
        let lot = Lot { bytes, row_bytes, first, n_parts, n_each, n_rows, n_blocks, scales: &scales };
        let mut t = 0;
        // SAFETY: as above.
        unsafe {
            while t < x.n_rows() {
                t += match x.n_rows() - t {
                    1 => lot.tiles::<F, D, M, 1>(x, t, &mut store),
                    _ if D::ALONE => unreachable!("a row alone"),
                    2 | 3 => lot.tiles::<F, D, 2, 2>(x, t, &mut store),
                    _ => lot.tiles::<F, D, 2, 4>(x, t, &mut store),
                };
            }
        }
    }
}

/// Weight rows that are taken together, some of each part, and their scales.
#[derive(Clone, Copy)]
struct Lot<'a> {
    /// Of the weight.
    bytes: &'a [u8],
    row_bytes: usize,
    /// The first row of the first part.
    first: usize,
    n_parts: usize,
    /// Rows from one part to the next.
    n_each: usize,
    /// Rows of each part that are in the lot.
    n_rows: usize,
    /// Blocks in a row.
    n_blocks: usize,
    scales: &'a Scales<'a>,
}

impl Lot<'_> {
    /// Row i of the lot: the first of each part, then the second ones, …; and which one of the weight it is.
    #[inline(always)]
    fn row<F: BlockScales>(&self, i: usize) -> (usize, WeightRow) {
        let (part, row) = (i % self.n_parts, i / self.n_parts);
        let m = self.first + part * self.n_each + row;
        let [scales, mins] = self.scales.at::<F>((part * self.n_rows + row) * self.n_blocks);
        // The scales of the next lot come first.
        let ahead = self.n_rows * self.row_bytes + AHEAD;
        (m, WeightRow { bytes: self.bytes[m * self.row_bytes..].as_ptr(), ahead, scales, mins })
    }

    /// Multiplies all rows with `T` rows of x from t on, `N` at a time; gives T.
    #[inline(always)]
    unsafe fn tiles<F: BlockScales, D: Dots<F>, const N: usize, const T: usize>(
        self,
        x: &Activations,
        t: usize,
        store: &mut impl FnMut(usize, usize, f32),
    ) -> usize {
        let x: [ActivationRow<'_>; T] = std::array::from_fn(|i| x.row(t + i));
        let n = self.n_parts * self.n_rows;
        let whole = n - n % N;
        // SAFETY: as the caller promises.
        unsafe {
            for i in (0..whole).step_by(N) {
                let rows: [_; N] = std::array::from_fn(|j| self.row::<F>(i + j));
                let sums = D::dots::<N, T>(rows.map(|(_, row)| row), x);
                for ((m, _), sums) in rows.into_iter().zip(sums) {
                    sums.into_iter().enumerate().for_each(|(j, sum)| store(t + j, m, sum));
                }
            }
            for i in whole..n {
                let (m, row) = self.row::<F>(i);
                let [sums] = D::dots::<1, T>([row], x);
                sums.into_iter().enumerate().for_each(|(j, sum)| store(t + j, m, sum));
            }
        }
        T
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::cpu::simd::{self, Input, Isa, activations::CHUNK};
    use crate::backend::cpu::threads::{Matrix, Parts};
    use crate::quant::{self, Format, SharedBytes};

    /// Weight rows: whole units of all kernels, and some that are left.
    const ROWS: usize = 11;

    /// SplitMix64.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    /// Blocks whose quants, scales and offsets have any bits, or all the same; halves are near 1.
    fn weight(format: &'static Format, k: usize, numbers: &mut Numbers, same: Option<u8>) -> Weight {
        let mut bytes: Vec<u8> =
            (0..format.bytes(ROWS * k)).map(|_| same.unwrap_or((numbers.next() >> 32) as u8)).collect();
        let halves: &[usize] = match format.name {
            "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[0],
            "Q2_K" => &[80, 82],
            "Q3_K" => &[108],
            "Q6_K" => &[208],
            "MXFP4" => &[],
            _ => &[0, 2],
        };
        for block in bytes.chunks_exact_mut(format.block_bytes) {
            for &at in halves {
                let half = half::f16::from_f32(0.5 + (numbers.next() >> 40) as f32 / (1 << 24) as f32);
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            if format.name == "MXFP4" {
                // 2⁻⁸ to 2⁷
                block[0] = 120 + (block[0] & 15);
            }
        }
        Weight { shape: vec![ROWS, k], format, bytes: SharedBytes::new(Arc::new(bytes)) }
    }

    /// Products are those of the rounded numbers, up to sums in f32.
    fn check(isa: Isa, weight: &Weight, x: &[f32], n_rows: usize) {
        let k = weight.row_len();
        let mut rounded = Activations::default();
        rounded.reserve(n_rows, k);
        x.chunks_exact(k).zip(rounded.rows_mut()).for_each(|(x, row)| simd::round(isa, x, row));
        let mut y = vec![f32::NAN; n_rows * ROWS];
        let parts = Parts::new(&mut [Matrix { data: &mut y, width: ROWS }]);
        // SAFETY: nobody else has the columns.
        let mut columns = unsafe { parts.columns(0, 0..ROWS) };
        let mut scratch = vec![0.0; simd::matvec_scratch_len(k)];
        simd::matvec(isa, weight, None, Input { x, rounded: &rounded }, &mut columns, &mut scratch);
        let w = weight.to_f32();
        // What bytes are larger than quants, scales being at most 1.5 where quants may be zeros.
        let zero = match weight.format.name {
            "Q8_0" | "IQ4_NL" | "IQ4_XS" => 128.0,
            "Q5_0" | "MXFP4" => 16.0,
            _ => 0.0,
        };
        for t in 0..n_rows {
            let row = rounded.row(t);
            for (m, w) in w.chunks_exact(k).enumerate() {
                let (mut expected, mut magnitude, mut sum_of_x) = (0.0, 0.0, 0.0);
                for (i, (&w, &x)) in w.iter().zip(&x[t * k..]).enumerate() {
                    let scale = f64::from(row.scales[i / CHUNK]);
                    let q = f64::from(row.q[i / BLOCK].0[i % BLOCK]) * scale;
                    assert!((f64::from(x) - q).abs() <= 0.51 * scale, "{isa}: {x} was rounded to {q}");
                    expected += f64::from(w) * q;
                    magnitude += (f64::from(w) * q).abs();
                    sum_of_x += q.abs();
                }
                let error = (f64::from(y[t * ROWS + m]) - expected).abs();
                // Offsets cancel what quants above zero add: some times the sum itself.
                assert!(
                    error <= 4e-6 * magnitude + zero * 4e-7 * sum_of_x,
                    "{isa}, {}, [{t}, {m}] of {k}: off by {error:e}",
                    weight.format.name
                );
            }
        }
    }

    #[test]
    fn products_of_each_instruction_set_are_those_of_the_rounded_numbers() {
        let mut numbers = Numbers(1);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for format in quant::ALL.iter().copied().filter(|format| simd::wants_rounded(format)) {
                for n_blocks in [1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 18, 24] {
                    let k = n_blocks * BLOCK;
                    if !k.is_multiple_of(format.block_len) {
                        continue;
                    }
                    for same in [None, Some(0x00), Some(0x80), Some(0x7f), Some(0xff)] {
                        let weight = weight(format, k, &mut numbers, same);
                        for n_rows in [1, 2, 3, 4, 5, 7, 8, 9, 13, 17] {
                            // Of one magnitude: the largest products that there are; and any.
                            let signs: Vec<f32> =
                                (0..n_rows * k).map(|i| if i / 5 % 3 == 0 { -1.0 } else { 1.0 }).collect();
                            let any = (0..n_rows * k).map(|_| (numbers.next() >> 40) as f32 / (1 << 23) as f32 - 1.0);
                            check(isa, &weight, &signs, n_rows);
                            check(isa, &weight, &any.collect::<Vec<_>>(), n_rows);
                            check(isa, &weight, &vec![-3.0; n_rows * k], n_rows);
                        }
                    }
                }
            }
        }
    }
}
