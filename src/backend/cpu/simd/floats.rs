//! Products of few rows of x with weights that are floats in the file: no rounding, f32 sums in all lanes.

use std::marker::PhantomData;

use super::vector::{Kernel, MAX_LANES, Vector};
use super::{Input, Isa};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;
use crate::quant::block::Half;
use crate::quant::float::{Brain, Single};

/// Weight rows that are taken together.
const M: usize = 4;
/// Rows of x that are taken together.
const N: usize = 3;

/// Floats of a format.
///
/// # Safety
/// `load` reads `LEN` numbers of `BYTES` bytes.
unsafe trait Load {
    const BYTES: usize;

    /// `LEN` numbers from `p` on.
    ///
    /// # Safety
    /// The processor has the instruction set of `V`, and they can be read.
    unsafe fn load<V: Vector>(p: *const u8) -> V;
}

// SAFETY: floats of four bytes.
unsafe impl Load for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: as the caller promises.
        unsafe { V::load(p.cast()) }
    }
}

// SAFETY: floats of two bytes.
unsafe impl Load for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: as the caller promises.
        unsafe { V::load_half(p.cast()) }
    }
}

// SAFETY: floats of two bytes.
unsafe impl Load for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: as the caller promises.
        unsafe { V::load_brain(p.cast()) }
    }
}

/// y[t, m] = x[t] · W[m] + bias[m], for the columns m that y has and all rows t of x.
///
/// # Panics
/// If the format is none of floats.
pub(super) fn matvec(isa: Isa, weight: &Weight, bias: Option<&[f32]>, input: Input<'_>, y: &mut Columns<'_>) {
    let x = input.x;
    match weight.format.name {
        "F32" => isa.run(Product { weight, bias, x, y, format: PhantomData::<Single> }),
        "F16" => isa.run(Product { weight, bias, x, y, format: PhantomData::<Half> }),
        "BF16" => isa.run(Product { weight, bias, x, y, format: PhantomData::<Brain> }),
        name => unreachable!("no kernel for {name}"),
    }
}

struct Product<'a, 'y, F> {
    weight: &'a Weight,
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    y: &'a mut Columns<'y>,
    format: PhantomData<F>,
}

impl<F: Load> Kernel for Product<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { weight, bias, x, y, .. } = self;
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
        // SAFETY: each pointer has k numbers behind it, and the processor has the instruction set.
        unsafe {
            for m in (rows.start..whole_m).step_by(M) {
                let w: [_; M] = std::array::from_fn(|i| w(m + i));
                for t in (0..whole_t).step_by(N) {
                    let sums = dots::<V, F, M, N>(w, std::array::from_fn(|j| x(t + j)), k);
                    for (i, sums) in sums.into_iter().enumerate() {
                        sums.into_iter().enumerate().for_each(|(j, sum)| store(t + j, m + i, sum));
                    }
                }
                for t in whole_t..n_rows {
                    let sums = dots::<V, F, M, 1>(w, [x(t)], k);
                    sums.into_iter().enumerate().for_each(|(i, [sum])| store(t, m + i, sum));
                }
            }
            for m in whole_m..rows.end {
                for t in 0..n_rows {
                    store(t, m, dots::<V, F, 1, 1>([w(m)], [x(t)], k)[0][0]);
                }
            }
        }
    }
}

/// The products of weight rows and rows of x.
///
/// # Safety
/// The processor has the instruction set of `V`, and each pointer has k numbers behind it.
#[inline(always)]
unsafe fn dots<V: Vector, F: Load, const M: usize, const N: usize>(
    w: [*const u8; M],
    x: [*const f32; N],
    k: usize,
) -> [[f32; N]; M] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut totals = [[V::splat(0.0); N]; M];
        let whole = k - k % V::LEN;
        for i in (0..whole).step_by(V::LEN) {
            let (mut w_i, mut x_i) = (w, x);
            for w in &mut w_i {
                *w = w.add(i * F::BYTES);
            }
            for x in &mut x_i {
                *x = x.add(i);
            }
            totals = add::<V, F, M, N>(totals, w_i, x_i);
        }
        if whole < k {
            // What is left, filled up with zeros.
            let n = k - whole;
            let (mut w_tails, mut x_tails) = ([[0u32; MAX_LANES]; M], [[0.0f32; MAX_LANES]; N]);
            for (w, tail) in w.iter().zip(&mut w_tails) {
                std::ptr::copy_nonoverlapping(w.add(whole * F::BYTES), tail.as_mut_ptr().cast(), n * F::BYTES);
            }
            for (x, tail) in x.iter().zip(&mut x_tails) {
                std::ptr::copy_nonoverlapping(x.add(whole), tail.as_mut_ptr(), n);
            }
            let w_tails: [*const u8; M] = std::array::from_fn(|m| w_tails[m].as_ptr().cast());
            let x_tails: [*const f32; N] = std::array::from_fn(|n| x_tails[n].as_ptr());
            totals = add::<V, F, M, N>(totals, w_tails, x_tails);
        }
        let mut sums = [[0.0; N]; M];
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = totals[m][n].sum();
            }
        }
        sums
    }
}

/// Adds the products of the numbers behind each pointer.
#[inline(always)]
unsafe fn add<V: Vector, F: Load, const M: usize, const N: usize>(
    mut totals: [[V; N]; M],
    w: [*const u8; M],
    x: [*const f32; N],
) -> [[V; N]; M] {
    // SAFETY: the caller promises the numbers.
    unsafe {
        let mut loaded = [V::splat(0.0); N];
        for n in 0..N {
            loaded[n] = V::load(x[n]);
        }
        for m in 0..M {
            let w = F::load::<V>(w[m]);
            for n in 0..N {
                totals[m][n] = totals[m][n].mul_add(w, loaded[n]);
            }
        }
    }
    totals
}
