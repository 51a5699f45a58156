//! Products with weights that are floats in the file: no rounding, f32 sums in eight lanes.

use std::arch::x86_64::*;

use super::{sum, sums};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;
use crate::quant::block::Half;
use crate::quant::float::{Brain, Single};

/// Weight rows that are taken together.
const M: usize = 4;
/// Rows of x that are taken together.
const N: usize = 3;

/// Eight floats of a format.
///
/// # Safety
/// `load` reads eight numbers of `BYTES` bytes.
pub(super) unsafe trait Load {
    const BYTES: usize;

    /// Eight numbers from `p` on.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C, and they can be read.
    unsafe fn load(p: *const u8) -> __m256;
}

// SAFETY: 32 bytes.
unsafe impl Load for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
}

// SAFETY: 16 bytes.
unsafe impl Load for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
}

// SAFETY: 16 bytes.
unsafe impl Load for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises. A brain float is the upper half of a single.
        unsafe {
            let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
            _mm256_castsi256_ps(bits)
        }
    }
}

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul<F: Load>(weight: &Weight, bias: Option<&[f32]>, x: &[f32], y: &mut Columns<'_>) {
    let k = weight.row_len();
    let row_bytes = k * F::BYTES;
    let rows = y.range();
    let n_rows = x.len() / k;
    assert!(weight.bytes.len() >= rows.end * row_bytes, "the weight has the columns of y");
    let w = |m: usize| weight.bytes[m * row_bytes..].as_ptr();
    let x = |t: usize| x[t * k..].as_ptr();
    let whole_m = rows.start + rows.len() / M * M;
    let whole_t = n_rows / N * N;
    let mut store = |t: usize, m: usize, sum: f32| y.set(t, m, bias.map_or(sum, |bias| sum + bias[m]));
    // SAFETY: each pointer has k numbers behind it, and the processor has the features.
    unsafe {
        for m in (rows.start..whole_m).step_by(M) {
            let w: [_; M] = std::array::from_fn(|i| w(m + i));
            for t in (0..whole_t).step_by(N) {
                let totals = dots::<F, M, N>(w, std::array::from_fn(|j| x(t + j)), k);
                let [a, b, c, d] = totals;
                for (j, (((a, b), c), d)) in a.into_iter().zip(b).zip(c).zip(d).enumerate() {
                    let sums = sums([a, b, c, d]);
                    (0..M).for_each(|i| store(t + j, m + i, sums[i]));
                }
            }
            for t in whole_t..n_rows {
                let totals = dots::<F, M, 1>(w, [x(t)], k);
                let sums = sums([totals[0][0], totals[1][0], totals[2][0], totals[3][0]]);
                (0..M).for_each(|i| store(t, m + i, sums[i]));
            }
        }
        for m in whole_m..rows.end {
            for t in 0..n_rows {
                store(t, m, sum(dots::<F, 1, 1>([w(m)], [x(t)], k)[0][0]));
            }
        }
    }
}

/// The products of weight rows and rows of x, each as eight numbers that are still to be added up.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and each pointer has k numbers behind it.
#[inline(always)]
unsafe fn dots<F: Load, const M: usize, const N: usize>(
    w: [*const u8; M],
    x: [*const f32; N],
    k: usize,
) -> [[__m256; N]; M] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut totals = [[_mm256_setzero_ps(); N]; M];
        for i in (0..k - k % 8).step_by(8) {
            let (mut w_i, mut x_i) = (w, x);
            for w in &mut w_i {
                *w = w.add(i * F::BYTES);
            }
            for x in &mut x_i {
                *x = x.add(i);
            }
            totals = add::<F, M, N>(totals, w_i, x_i);
        }
        if !k.is_multiple_of(8) {
            // What is left, filled up with zeros.
            let (at, n) = (k - k % 8, k % 8);
            let (mut w_tails, mut x_tails) = ([[0u8; 32]; M], [[0.0f32; 8]; N]);
            for (w, tail) in w.iter().zip(&mut w_tails) {
                std::ptr::copy_nonoverlapping(w.add(at * F::BYTES), tail.as_mut_ptr(), n * F::BYTES);
            }
            for (x, tail) in x.iter().zip(&mut x_tails) {
                std::ptr::copy_nonoverlapping(x.add(at), tail.as_mut_ptr(), n);
            }
            let w_tails: [*const u8; M] = std::array::from_fn(|m| w_tails[m].as_ptr());
            let x_tails: [*const f32; N] = std::array::from_fn(|n| x_tails[n].as_ptr());
            totals = add::<F, M, N>(totals, w_tails, x_tails);
        }
        totals
    }
}

/// Adds the products of the eight numbers behind each pointer.
#[inline(always)]
unsafe fn add<F: Load, const M: usize, const N: usize>(
    mut totals: [[__m256; N]; M],
    w: [*const u8; M],
    x: [*const f32; N],
) -> [[__m256; N]; M] {
    // SAFETY: the caller promises the numbers.
    unsafe {
        let mut loaded = [_mm256_setzero_ps(); N];
        for n in 0..N {
            loaded[n] = _mm256_loadu_ps(x[n]);
        }
        for m in 0..M {
            let w = F::load(w[m]);
            for n in 0..N {
                totals[m][n] = _mm256_fmadd_ps(w, loaded[n], totals[m][n]);
            }
        }
    }
    totals
}
