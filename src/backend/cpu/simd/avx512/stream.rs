//! The product of weight rows as they lie in the file with one row of x in 16 bits, as fast as memory gives the rows.
//!
//! A 16-bit number of x is 256 · h + l, both signed bytes: the processor multiplies four bytes a lane and adds them up in one
//! instruction, so that weights need not be made wider than they are. Scales are taken where they are met.
//!
//! A task's rows are [`STREAMS`] parts of as many that follow each other, and what is multiplied in turn is a chunk of each:
//! a processor fetches ahead for each part by itself, and has more of memory on its way to it than with one. Rows that follow
//! each other directly, several at once, are the contrary: one stream whose addresses jump.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::formats::{BEYOND, Order, Unpack};
use super::scales::{self, Integers, chunk};
use super::vector::Lanes;
use crate::backend::cpu::simd::activations::{ActivationRow, Activations, BLOCK, CHUNK_BLOCKS, Line};
use crate::backend::cpu::simd::scales::Kept;
use crate::backend::cpu::simd::vector::prefetch;
use crate::backend::cpu::simd::{STREAMS, avx2};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Bytes from what is multiplied to what is asked of memory for the first-level cache.
const AHEAD: usize = 1024;

/// `$call` for each `$i` below `$n`, at most four: in a loop the sums would be kept in memory.
macro_rules! each {
    ($i:ident of $n:ident => $call:expr) => {{
        const { assert!($n <= 4) };
        each!($i of $n => $call, 0 1 2 3);
    }};
    ($i:ident of $n:ident => $call:expr, $($value:literal)*) => {{
        $(if $value < $n {
            let $i = $value;
            $call;
            if const { has_factors::<F>() } {
                // One after the other: all at once have more sums than there are registers.
                compiler_fence(Ordering::SeqCst);
            }
        })*
    }};
}

/// f32s of scratch that [`product`] needs for rows of `k` weights: a row, of at most 34 bytes a block, and what is read beyond it.
pub(in crate::backend::cpu::simd) fn scratch_len(k: usize) -> usize {
    (k.div_ceil(BLOCK) * 34 + BEYOND).div_ceil(size_of::<f32>())
}

/// y[m] = x · W[m] + bias[m], for the columns m that y has and the only row of x.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn product<F: Unpack>(
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Activations,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    const { assert!(F::GROUP == 1 || F::GROUP == CHUNK_BLOCKS) };
    let rows = y.range();
    let row_bytes = x.n_blocks() / F::GROUP * F::GROUP_BYTES;
    assert!(row_bytes == weight.row_bytes() && x.n_blocks().is_multiple_of(F::GROUP), "rows of x and of the weight");
    assert_eq!(x.n_rows(), 1, "one row");
    let (x, bytes) = (x.row(0), &weight.bytes[..rows.end * row_bytes]);
    let copy: &mut [u8] = bytemuck::cast_slice_mut(scratch);
    let bias = bias.map(|bias| &bias[rows.clone()]);
    let y = &mut y.row(0)[..rows.len()];
    let mut store = |m: usize, sum: f32| {
        let i = m - rows.start;
        y[i] = bias.map_or(sum, |bias| sum + bias[i]);
    };
    let row = |m: usize| bytes[m * row_bytes..].as_ptr();
    // Rows behind which what is read beyond them lies within the weight, too; the others are copied first.
    let readable = (weight.bytes.len() - BEYOND.min(weight.bytes.len())) / row_bytes;
    let readable = readable.clamp(rows.start, rows.end);
    let whole = readable - (readable - rows.start) % STREAMS;
    // SAFETY: the rows have the blocks that x has, and what is read beyond them is there.
    unsafe {
        let n_each = (whole - rows.start) / STREAMS;
        for m in rows.start..rows.start + n_each {
            let sums = dots::<F, STREAMS>(std::array::from_fn(|i| row(m + i * n_each)), x);
            sums.into_iter().enumerate().for_each(|(i, sum)| store(m + i * n_each, sum));
        }
        for m in whole..rows.end {
            let mut one = row(m);
            if m >= readable {
                copy[..row_bytes].copy_from_slice(&bytes[m * row_bytes..][..row_bytes]);
                one = copy.as_ptr();
            }
            let [sum] = dots::<F, 1>([one], x);
            store(m, sum);
        }
    }
}

/// Σ w x of each row.
///
/// # Safety
/// The processor has AVX-512, and the rows the blocks that x has; with groups of one block, 64 more bytes can be read.
#[inline(always)]
unsafe fn dots<F: Unpack, const N: usize>(rows: [*const u8; N], x: ActivationRow<'_>) -> [f32; N] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut products = [const { Product::NONE }; N];
        let (n_whole, rest) = (x.n_blocks / CHUNK_BLOCKS, x.n_blocks % CHUNK_BLOCKS);
        for c in 0..n_whole {
            add_chunk::<F, N>(&mut products, &rows, x, c, CHUNK_BLOCKS);
        }
        if F::GROUP == 1 && rest > 0 {
            add_chunk::<F, N>(&mut products, &rows, x, n_whole, rest);
        }
        let mut halves = [_mm256_setzero_ps(); N];
        for (half, Product { total, offsets }) in halves.iter_mut().zip(products) {
            let total = if const { has_offsets::<F>() } { _mm512_add_ps(total, offsets) } else { total };
            *half = _mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps::<1>(total));
        }
        avx2::sums(halves)
    }
}

/// Whether sums of x are multiplied with anything: offsets, or what bytes are more than quants.
const fn has_offsets<F: Unpack>() -> bool {
    F::MINS || F::ZERO > 0
}

/// Whether blocks share a scale, and half blocks have integers that they are multiplied with.
const fn has_factors<F: Unpack>() -> bool {
    F::SHARED || matches!(F::KEPT, Kept::Head)
}

/// Sums of products in lanes: of weights, and of offsets.
#[derive(Clone, Copy)]
struct Product {
    total: __m512,
    offsets: __m512,
}

impl Product {
    // SAFETY: zeros are numbers.
    const NONE: Self = unsafe { std::mem::zeroed() };
}

/// Adds the `n` blocks of chunk c of each row.
///
/// # Safety
/// The processor has AVX-512; the rows and x have that many blocks in the chunk, and x the sums and digits of a whole one.
#[inline(always)]
unsafe fn add_chunk<F: Unpack, const N: usize>(
    products: &mut [Product; N],
    rows: &[*const u8; N],
    x: ActivationRow<'_>,
    c: usize,
    n: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let at = c * const { CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES };
        let digits = digits_of::<F>(x, c);
        let of_x = _mm512_set1_ps(*x.scales.get_unchecked(c));
        let sums = sums_of::<F>(x, c);
        if const { has_factors::<F>() } {
            each!(i of N => {
                let p = rows[i].add(at);
                prefetch::<Lanes>(p.wrapping_add(AHEAD), F::GROUP_BYTES, true);
                let Integers { scale, factors, mins } = scales::integers::<F>(p);
                products[i].offsets = _mm512_fmadd_ps(mins, sums, products[i].offsets);
                let scale = _mm512_mul_ps(of_x, _mm512_set1_ps(scale));
                products[i].total = _mm512_fmadd_ps(with_factors::<F>(p, digits, factors), scale, products[i].total);
            });
        } else {
            let mut scales = [_mm512_setzero_ps(); N];
            each!(i of N => {
                let p = rows[i].add(at);
                prefetch::<Lanes>(p.wrapping_add(AHEAD), n / F::GROUP * F::GROUP_BYTES, true);
                let chunk = chunk::<F>(p, n);
                scales[i] = chunk.scales;
                if const { has_offsets::<F>() } {
                    products[i].offsets = _mm512_fmadd_ps(chunk.mins, sums, products[i].offsets);
                }
            });
            let mut totals = [_mm512_setzero_ps(); N];
            for half in 0..n.div_ceil(4) {
                let x = Half::of(digits, half);
                each!(i of N => {
                    let p = rows[i].add(at);
                    let q = F::quants(if F::GROUP == 1 { p.add(4 * half * F::GROUP_BYTES) } else { p }, half);
                    totals[i] = x.add_products::<F>(totals[i], q, scales[i]);
                });
            }
            each!(i of N => products[i].total = _mm512_fmadd_ps(totals[i], of_x, products[i].total));
        }
    }
}

/// What the offsets of chunk c are multiplied with.
#[inline(always)]
unsafe fn sums_of<F: Unpack>(x: ActivationRow<'_>, c: usize) -> __m512 {
    // SAFETY: the caller has AVX-512, and x sums of whole chunks.
    unsafe {
        if F::SHARED {
            return _mm512_loadu_ps(x.half_sums.as_ptr().add(2 * CHUNK_BLOCKS * c));
        }
        let sums = _mm512_zextps256_ps512(_mm256_loadu_ps(x.sums.as_ptr().add(CHUNK_BLOCKS * c)));
        if const { scales::n_lanes::<F>() == 1 } {
            return sums;
        }
        // Offsets are in odd lanes.
        let index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        _mm512_maskz_permutexvar_ps(0b1010_1010_1010_1010, index, sums)
    }
}

/// The digits of chunk c of x in the order of a format: of two registers of weights the upper ones and the lower ones, and so of
/// the other two.
#[inline(always)]
unsafe fn digits_of<F: Unpack>(x: ActivationRow<'_>, c: usize) -> *const Line {
    let n_lines = x.digits.len() / Order::ALL.len();
    // SAFETY: there are those of whole chunks for each order.
    unsafe { x.digits.as_ptr().add(F::ORDER as usize * n_lines + CHUNK_BLOCKS * c) }
}

/// The digits of half a chunk, loaded once for all rows.
#[derive(Clone, Copy)]
struct Half {
    which: usize,
    upper: [__m512i; 2],
    lower: [__m512i; 2],
}

impl Half {
    #[inline(always)]
    unsafe fn of(digits: *const Line, which: usize) -> Self {
        // SAFETY: the caller has AVX-512, and four lines for each half.
        unsafe {
            let [upper_a, upper_b, lower_a, lower_b] =
                [0, 1, 2, 3].map(|i| _mm512_load_si512(digits.add(4 * which + i).cast()));
            Self { which, upper: [upper_a, upper_b], lower: [lower_a, lower_b] }
        }
    }

    /// `total` and the sums of the half's blocks, whose quants are `q`, each times its own of a chunk's `scales`.
    #[inline(always)]
    unsafe fn add_products<F: Unpack>(self, total: __m512, [a, b]: [__m512i; 2], scales: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512.
        unsafe {
            let Self { which, upper, lower } = self;
            let none = _mm512_setzero_si512();
            if F::ORDER == Order::Halves {
                // Both registers have the same blocks.
                let sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(none, a, upper[0]), b, upper[1]);
                let sum = _mm512_slli_epi32::<8>(sum);
                let sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, a, lower[0]), b, lower[1]);
                return add_scaled::<F>(total, sum, scales, 2 * which);
            }
            let mut total = total;
            for (i, q) in [a, b].into_iter().enumerate() {
                let sum = _mm512_slli_epi32::<8>(_mm512_dpbusd_epi32(none, q, upper[i]));
                total = add_scaled::<F>(total, _mm512_dpbusd_epi32(sum, q, lower[i]), scales, 2 * which + i);
            }
            total
        }
    }
}

/// `total` and the sums of a register's blocks, each times its scale.
#[inline(always)]
unsafe fn add_scaled<F: Unpack>(total: __m512, sums: __m512i, scales: __m512, register: usize) -> __m512 {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let index = &const { lanes(F::ORDER, 2, scales::n_lanes::<F>()) }[register];
        let scales = _mm512_permutexvar_ps(_mm512_loadu_si512(index.as_ptr().cast()), scales);
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scales, total)
    }
}

/// The sum of a chunk, each half block times its own of `factors`, 16 bits each.
#[inline(always)]
unsafe fn with_factors<F: Unpack>(p: *const u8, digits: *const Line, factors: __m256i) -> __m512 {
    // SAFETY: the caller has AVX-512, and the chunk's blocks and digits.
    unsafe {
        // In the lower half of each lane, zero in the upper one: four products of bytes fit in 16 bits.
        let factors = _mm512_cvtepu16_epi32(factors);
        let none = _mm512_setzero_si512();
        let [mut upper, mut lower] = [none; 2];
        for half in 0..2 {
            for (which, q) in F::quants(p, half).into_iter().enumerate() {
                let index = &const { lanes(F::ORDER, 1, 1) }[2 * half + which];
                let factors = _mm512_permutexvar_epi32(_mm512_loadu_si512(index.as_ptr().cast()), factors);
                let x = digits.add(4 * half + which);
                upper = multiply_add(upper, multiply(none, q, x), factors);
                lower = multiply_add(lower, multiply(none, q, x.add(2)), factors);
            }
        }
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper), _mm512_set1_ps(256.0), _mm512_cvtepi32_ps(lower))
    }
}

/// Which half block the lanes of the registers of a chunk belong to, or which block, with two halves in a `unit`; times `stride`.
const fn lanes(order: Order, unit: usize, stride: u32) -> [[u32; 16]; 4] {
    let mut units = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        units[i / 16][i % 16] = (order.half_block(i / 16, i % 16 / 4) / unit) as u32 * stride;
        i += 1;
    }
    units
}

/// `sum` and in each of its lanes the products of four bytes, of which those of weights are unsigned: `_mm512_dpbusd_epi32` with what
/// lies in memory.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply(mut sum: __m512i, q: __m512i, x: *const Line) -> __m512i {
    // In assembly since the compiler would load what is in memory first.
    // SAFETY: the callers have a line there, and the processor the instruction.
    unsafe {
        asm!("vpdpbusd {sum}, {q}, zmmword ptr [{x}]", sum = inout(zmm_reg) sum, q = in(zmm_reg) q, x = in(reg) x,
            options(pure, readonly, nostack, preserves_flags));
    }
    sum
}

/// `sum` and in each of its lanes the products of two pairs of 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn multiply_add(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // In assembly since the compiler makes two instructions of it.
    // SAFETY: the processor has the instruction.
    unsafe {
        asm!("vpdpwssd {sum}, {a}, {b}", sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
