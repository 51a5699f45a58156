//! Products of a few rows of x by tiles of bytes.
//!
//! A 16-bit number of x is 256 · h + l, both signed bytes. One tile has these bytes of a sub-block, h and l of a row in two of its rows,
//! another one has the quants; their product is exact. It takes some fifty cycles until it can be stored, which is why others are on
//! their way meanwhile.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Line, Tiles};
use crate::backend::cpu::simd::activations::{self, ActivationRowMut};
use crate::backend::cpu::simd::avx512::vector::Lanes;
use crate::backend::cpu::simd::few::{self, Chunk, Multiply, Part, STRIP, with_rows};
use crate::backend::cpu::simd::gemm::unpack::Quants;
use crate::backend::cpu::simd::scales::of_blocks;
use crate::backend::cpu::simd::vector::Vector;
use crate::backend::cpu::simd::{avx2, avx512};

/// Rows of x that are multiplied together, at most.
const TOGETHER: usize = 8;
/// Tiles for sums.
const SUMS: usize = 4;

of_blocks! {
    /// See [`few::product`]: the block formats.
    pub(in super::super) fn few = few::product::<F, Tiles>, F: Quants, if super::available, for "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"
}

// SAFETY: these are for processors with tiles, of which all have AVX-512.
unsafe impl Multiply for Tiles {
    type Vector = Lanes;
    const TOGETHER: usize = TOGETHER;

    fn new(rows: usize, sub_len: usize) -> Self {
        // Two rows of bytes for each row of x.
        Self::new(2 * rows, sub_len)
    }

    #[inline(always)]
    unsafe fn put(chunk: &mut Chunk, i: usize, _: usize, q: __m512i) {
        // SAFETY: as the caller promises; a line is a register.
        unsafe { Lanes::from_bits(q).store(chunk.quants[i].as_mut_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn add(&self, chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
        // SAFETY: as the caller promises.
        unsafe {
            with_rows!(x.rows, T in [2, 3, 4, 5, 6, 7, 8] => self.add_rows::<T>(chunk, x, totals));
        }
    }
}

/// What the bytes of rows of x and the quants of a sub-block add up to: of each row those of the bytes h, then those of the bytes l.
type Sums = [[[i32; STRIP]; 2]; TOGETHER];

impl Tiles {
    /// [`Multiply::add`] of `T` rows of x.
    ///
    /// # Safety
    /// The processor has AVX-512, and `x` is of T rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn add_rows<const T: usize>(&self, chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
        let mut sums = [const { MaybeUninit::<Sums>::uninit() }; SUMS];
        // SAFETY: as the caller promises: all sub-blocks are there, and sums are read after they were written.
        unsafe {
            let mut all = [[Lanes::splat(0.0); 2]; T];
            for s in 0..x.n_subs + SUMS {
                if s < x.n_subs {
                    self.multiply(chunk, x, s);
                }
                // Two more are on their way.
                if (2..x.n_subs + 2).contains(&s) {
                    self.store(s - 2, &mut sums[(s - 2) % SUMS]);
                }
                if s >= SUMS {
                    add_sums(&mut all, sums[s % SUMS].assume_init_ref(), &chunk.scales[s - SUMS]);
                }
            }
            few::finish::<Lanes, T>(chunk, x, all, totals);
        }
    }

    /// Multiplies the bytes of rows of x with the quants of sub-block s.
    ///
    /// # Safety
    /// The tiles were set up for the rows of `x`, which have this sub-block.
    #[inline(always)]
    unsafe fn multiply(&self, chunk: &Chunk, x: &Part, s: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = x.lines.cast::<u8>().add(x.at + s * x.sub_len);
            // The bytes h of a row of x, and then its bytes l.
            let stride = x.line_stride * size_of::<activations::Line>() / 2;
            let quants = chunk.quants.as_ptr().add(s * x.sub_len / 4);
            match s % SUMS {
                0 => multiply_bytes::<0, 4, 6>(bytes, stride, quants.cast()),
                1 => multiply_bytes::<1, 5, 7>(bytes, stride, quants.cast()),
                2 => multiply_bytes::<2, 4, 6>(bytes, stride, quants.cast()),
                _ => multiply_bytes::<3, 5, 7>(bytes, stride, quants.cast()),
            }
        }
    }

    /// Stores what sub-block s adds up to.
    ///
    /// # Safety
    /// It was multiplied, and less than four after it.
    #[inline(always)]
    unsafe fn store(&self, s: usize, sums: &mut MaybeUninit<Sums>) {
        // SAFETY: as the caller promises.
        unsafe {
            match s % SUMS {
                0 => store_sums::<0>(sums),
                1 => store_sums::<1>(sums),
                2 => store_sums::<2>(sums),
                _ => store_sums::<3>(sums),
            }
        }
    }
}

/// Adds the sums of a sub-block, times its scales, to those of `T` rows of x.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn add_sums<const T: usize>(all: &mut [[Lanes; 2]; T], sums: &Sums, scales: &[f32; STRIP]) {
    // SAFETY: as the caller promises.
    unsafe {
        let scale = Lanes::load(scales.as_ptr());
        for t in 0..T {
            let [high, low] = [0, 1].map(|i| _mm512_loadu_si512(sums[t][i].as_ptr().cast()));
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
            all[t][0] = all[t][0].mul_add(Lanes::from_ints(sum), scale);
        }
    }
}

/// Multiplies rows of bytes, which are `stride` bytes apart, with quants: tiles `X` and `W`, into tile `TO`.
///
/// # Safety
/// Tiles are set up, and all of these can be read.
#[inline(always)]
unsafe fn multiply_bytes<const TO: usize, const X: usize, const W: usize>(
    bytes: *const u8,
    stride: usize,
    quants: *const Line,
) {
    // SAFETY: as the caller promises; nobody but these functions uses tiles.
    unsafe {
        asm!(
            "tileloadd tmm{w}, [{quants} + {line}]",
            "tileloadd tmm{x}, [{bytes} + {stride}]",
            "tilezero tmm{to}",
            "tdpbssd tmm{to}, tmm{x}, tmm{w}",
            to = const TO,
            x = const X,
            w = const W,
            bytes = in(reg) bytes,
            stride = in(reg) stride,
            quants = in(reg) quants,
            line = in(reg) size_of::<Line>(),
            options(nostack, preserves_flags),
        );
    }
}

/// Stores tile `FROM`.
///
/// # Safety
/// As for [`multiply_bytes`].
#[inline(always)]
unsafe fn store_sums<const FROM: usize>(sums: &mut MaybeUninit<Sums>) {
    // SAFETY: as the caller promises: no more rows than there is room for are stored.
    unsafe {
        asm!(
            "tilestored [{to} + {line}], tmm{from}",
            from = const FROM,
            to = in(reg) sums.as_mut_ptr(),
            line = in(reg) size_of::<Line>(),
            options(nostack, preserves_flags),
        );
    }
}

/// Fills `out` with the numbers of `x`, in plain order and in bytes; in the order of AVX-512 for a row that is alone.
pub(in super::super) fn round(x: &[f32], mut out: ActivationRowMut<'_>) {
    if out.alone {
        return avx512::round(x, out);
    }
    avx2::quantize(x, out.reborrow());
    assert!(super::available(), "the processor was asked before");
    // SAFETY: the processor has AVX-512.
    unsafe { split(out.q, out.woven) }
}

/// Splits numbers into bytes: the bytes h of a row, then the bytes l.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split(plain: &[activations::Line], bytes: &mut [activations::Line]) {
    let to = bytes.as_mut_ptr().cast::<__m256i>();
    for (b, q) in plain.iter().enumerate() {
        // SAFETY: a line is a register, and there are two of half the size for each.
        unsafe {
            let q = _mm512_load_si512(q.0.as_ptr().cast());
            // What is left for l is from -128 to 127.
            let high = _mm512_srai_epi16::<8>(_mm512_add_epi16(q, _mm512_set1_epi16(128)));
            _mm256_store_si256(to.add(b), _mm512_cvtepi16_epi8(high));
            _mm256_store_si256(to.add(plain.len() + b), _mm512_cvtepi16_epi8(q));
        }
    }
}
