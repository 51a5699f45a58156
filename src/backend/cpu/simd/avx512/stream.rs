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
use super::scales::{self, ChunkScales, Integers, chunk};
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
    let mut store = |m: usize, sum: f32| y.set(0, m, bias.map_or(sum, |bias| sum + bias[m]));
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
            each!(i of N => products[i].add_chunk::<F>(rows[i], x, c, CHUNK_BLOCKS));
        }
        if F::GROUP == 1 && rest > 0 {
            each!(i of N => products[i].add_chunk::<F>(rows[i], x, n_whole, rest));
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

/// Σ w x of a row, in lanes.
#[derive(Clone, Copy)]
struct Product {
    total: __m512,
    offsets: __m512,
}

impl Product {
    // SAFETY: zeros are numbers.
    const NONE: Self = unsafe { std::mem::zeroed() };

    /// Adds the `n` blocks of chunk c.
    #[inline(always)]
    unsafe fn add_chunk<F: Unpack>(&mut self, row: *const u8, x: ActivationRow<'_>, c: usize, n: usize) {
        // SAFETY: the caller has AVX-512; the row and x have that many blocks in the chunk, and sums and digits of a whole one.
        unsafe {
            let p = row.add(c * const { CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES });
            prefetch::<Lanes>(p.wrapping_add(AHEAD), n / F::GROUP * F::GROUP_BYTES, true);
            let digits = digits_of::<F>(x, c);
            let of_x = *x.scales.get_unchecked(c);
            let (sum, scale, mins) = if const { has_factors::<F>() } {
                let Integers { scale, factors, mins } = scales::integers::<F>(p);
                (with_factors::<F>(p, digits, factors), of_x * scale, mins)
            } else {
                let ChunkScales { scales, mins } = chunk::<F>(p, n);
                (with_scales::<F>(p, digits, scales, n), of_x, mins)
            };
            self.total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), self.total);
            if const { has_offsets::<F>() } {
                let sums = if F::SHARED {
                    _mm512_loadu_ps(x.half_sums.as_ptr().add(2 * CHUNK_BLOCKS * c))
                } else {
                    _mm512_zextps256_ps512(_mm256_loadu_ps(x.sums.as_ptr().add(CHUNK_BLOCKS * c)))
                };
                self.offsets = _mm512_fmadd_ps(mins, sums, self.offsets);
            }
        }
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

/// The sum of the `n` blocks of a chunk, each times its own scale of `scales`, which are in the lower lanes.
#[inline(always)]
unsafe fn with_scales<F: Unpack>(p: *const u8, digits: *const Line, scales: __m256, n: usize) -> __m512 {
    // SAFETY: the caller has AVX-512, and the chunk's blocks and digits.
    unsafe {
        let scales = _mm512_castps256_ps512(scales);
        let none = _mm512_setzero_si512();
        let mut total = _mm512_setzero_ps();
        for half in 0..n.div_ceil(4) {
            let [a, b] = F::quants(if F::GROUP == 1 { p.add(4 * half * F::GROUP_BYTES) } else { p }, half);
            let [upper_a, upper_b, lower_a, lower_b] = [0, 1, 2, 3].map(|i| digits.add(4 * half + i));
            if F::ORDER == Order::Halves {
                // Both registers have the same blocks.
                let upper = multiply(multiply(none, a, upper_a), b, upper_b);
                let sum = multiply(multiply(_mm512_slli_epi32::<8>(upper), a, lower_a), b, lower_b);
                total = add_scaled::<F>(total, sum, scales, 2 * half);
            } else {
                let upper = multiply(none, a, upper_a);
                total = add_scaled::<F>(total, multiply(_mm512_slli_epi32::<8>(upper), a, lower_a), scales, 2 * half);
                let upper = multiply(none, b, upper_b);
                total =
                    add_scaled::<F>(total, multiply(_mm512_slli_epi32::<8>(upper), b, lower_b), scales, 2 * half + 1);
            }
        }
        total
    }
}

/// `total` and the sums of a register's blocks, each times its scale.
#[inline(always)]
unsafe fn add_scaled<F: Unpack>(total: __m512, sums: __m512i, scales: __m512, register: usize) -> __m512 {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let index = &const { lanes(F::ORDER, 2) }[register];
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
                let index = &const { lanes(F::ORDER, 1) }[2 * half + which];
                let factors = _mm512_permutexvar_epi32(_mm512_loadu_si512(index.as_ptr().cast()), factors);
                let x = digits.add(4 * half + which);
                upper = multiply_add(upper, multiply(none, q, x), factors);
                lower = multiply_add(lower, multiply(none, q, x.add(2)), factors);
            }
        }
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper), _mm512_set1_ps(256.0), _mm512_cvtepi32_ps(lower))
    }
}

/// Which half block the lanes of the registers of a chunk belong to; or which block, with two halves in a `unit`.
const fn lanes(order: Order, unit: usize) -> [[u32; 16]; 4] {
    let mut units = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        units[i / 16][i % 16] = (order.half_block(i / 16, i % 16 / 4) / unit) as u32;
        i += 1;
    }
    units
}

/// `sum` and in each of its lanes the products of four bytes, of which those of weights are unsigned.
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
