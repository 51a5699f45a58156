//! The product of weight rows as they lie in the file with one row of x in 16 bits, as fast as memory gives the rows.
//!
//! One row after the other, two blocks at a time, scales taken where they are met: several rows at once, or a pass for their
//! scales before, are fewer instructions, but then addresses jump, and the processor's own prefetcher loses the thread.

use std::arch::asm;
use std::arch::x86_64::*;

use super::formats::{BEYOND, Order, Unpack};
use super::scales::{ChunkScales, chunk};
use crate::backend::cpu::simd::activations::{ActivationRow, Activations, BLOCK, CHUNK_BLOCKS, Line};
use crate::backend::cpu::simd::avx2;
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

/// Weight rows whose sums are added up together.
const M: usize = 4;
/// Bytes from what is multiplied to what is asked of memory for the first-level cache.
const AHEAD: usize = 2048;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Lines at the start of the next page that are asked for.
const HEAD_LINES: usize = 3;

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
    let whole = readable - (readable - rows.start) % M;
    // SAFETY: the rows have the blocks that x has, and what is read beyond them is there.
    unsafe {
        for m in (rows.start..whole).step_by(M) {
            let sums = dots::<F, M>(std::array::from_fn(|i| row(m + i)), x);
            sums.into_iter().enumerate().for_each(|(i, sum)| store(m + i, sum));
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
        let mut halves = [_mm256_setzero_ps(); N];
        for (half, row) in halves.iter_mut().zip(rows) {
            let total = dot::<F>(row, x);
            *half = _mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps::<1>(total));
        }
        avx2::sums(halves)
    }
}

/// Σ w x, in lanes.
#[inline(always)]
unsafe fn dot<F: Unpack>(row: *const u8, x: ActivationRow<'_>) -> __m512 {
    // SAFETY: as the caller of `dots` promises.
    unsafe {
        let mut product = Product { total: _mm512_setzero_ps(), offsets: _mm512_setzero_ps() };
        let (n_whole, rest) = (x.n_blocks / CHUNK_BLOCKS, x.n_blocks % CHUNK_BLOCKS);
        for c in 0..n_whole {
            product.add_chunk::<F>(row, x, c, CHUNK_BLOCKS);
        }
        if F::GROUP == 1 && rest > 0 {
            product.add_chunk::<F>(row, x, n_whole, rest);
        }
        if F::MINS { _mm512_add_ps(product.total, product.offsets) } else { product.total }
    }
}

struct Product {
    total: __m512,
    offsets: __m512,
}

impl Product {
    /// Adds the `n` blocks of chunk c.
    #[inline(always)]
    unsafe fn add_chunk<F: Unpack>(&mut self, row: *const u8, x: ActivationRow<'_>, c: usize, n: usize) {
        // SAFETY: the caller has AVX-512; the row and x have that many blocks in the chunk, and sums of a whole one.
        unsafe {
            let p = row.add(c * const { CHUNK_BLOCKS / F::GROUP * F::GROUP_BYTES });
            prefetch(p, n / F::GROUP * F::GROUP_BYTES);
            let ChunkScales { scales, mins } = chunk::<F>(p, n);
            if F::MINS {
                let sums = if F::HALF_MINS {
                    _mm512_loadu_ps(x.half_sums.as_ptr().add(2 * CHUNK_BLOCKS * c))
                } else {
                    _mm512_zextps256_ps512(_mm256_loadu_ps(x.sums.as_ptr().add(CHUNK_BLOCKS * c)))
                };
                self.offsets = _mm512_fmadd_ps(mins, sums, self.offsets);
            }
            let mut sums = Sums::new();
            for j in 0..n.div_ceil(2) {
                let (group, in_group) = (2 * j / F::GROUP, 2 * j % F::GROUP);
                let q = F::quants(p.add(group * F::GROUP_BYTES), in_group / 2);
                let x = lines::<F>(x, c * CHUNK_BLOCKS + 2 * j);
                add_two::<F>(&mut sums, q, x, F::ORDER.of_pair(_mm512_castps256_ps512(scales), j));
            }
            self.total = sums.add_to::<F>(self.total, *x.scales.get_unchecked(c), _mm256_cvtss_f32(scales));
        }
    }
}

/// The sums of a chunk: of integers, where its blocks share a scale.
struct Sums {
    floats: __m512,
    integers: __m512i,
}

impl Sums {
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the callers have AVX-512, here and below.
        unsafe { Self { floats: _mm512_setzero_ps(), integers: _mm512_setzero_si512() } }
    }

    /// `total`, and these times the scale that the chunk's activations share, and that of the weights if they share one.
    #[inline(always)]
    unsafe fn add_to<F: Unpack>(self, total: __m512, of_x: f32, shared: f32) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (sum, scale) =
                if F::SHARED { (_mm512_cvtepi32_ps(self.integers), of_x * shared) } else { (self.floats, of_x) };
            _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), total)
        }
    }
}

/// The blocks b and b + 1 of x.
#[inline(always)]
unsafe fn lines<F: Unpack>(x: ActivationRow<'_>, b: usize) -> [__m512i; 2] {
    let lines: *const Line = if F::ORDER == Order::Woven { x.woven.as_ptr() } else { x.q.as_ptr() };
    // SAFETY: the callers have AVX-512 and a block b; lines are whole pairs.
    unsafe { [0, 1].map(|i| _mm512_load_si512(lines.add(b + i).cast())) }
}

/// Adds two blocks of a weight row and a row of x, whose `scales` are as [`Order`] says; without any where they share one.
#[inline(always)]
unsafe fn add_two<F: Unpack>(sums: &mut Sums, q: [__m512i; 2], x: [__m512i; 2], scales: [__m512; 2]) {
    // SAFETY: the callers have AVX-512.
    unsafe {
        if F::SHARED {
            // Each lane: 16 products of 15 bits and 12. That fits 31 bits.
            sums.integers = multiply_add(multiply_add(sums.integers, q[0], x[0]), q[1], x[1]);
        } else if F::ORDER == Order::Woven {
            let sum = multiply_add(_mm512_madd_epi16(q[0], x[0]), q[1], x[1]);
            sums.floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scales[0], sums.floats);
        } else {
            for i in 0..2 {
                let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(q[i], x[i]));
                sums.floats = _mm512_fmadd_ps(sum, scales[i], sums.floats);
            }
        }
    }
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

/// Asks memory for what follows the `n_bytes` that are read from `p` on.
///
/// The processor prefetches within a page by itself, some lines ahead; what it needs is to be led into the next page.
#[inline(always)]
fn prefetch(p: *const u8, n_bytes: usize) {
    for line in (0..n_bytes).step_by(64) {
        // SAFETY: a hint, which is ignored where there is nothing; so below.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + line).cast()) };
    }
    let in_page = p.addr() % PAGE;
    if in_page < n_bytes {
        let next = p.wrapping_add(PAGE - in_page);
        for line in 0..HEAD_LINES {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast()) };
        }
    }
}
