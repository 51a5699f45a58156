//! The products of [`few`](super) in words: two 16-bit numbers of a weight row in a lane, times the same two of each row of x.

use super::{Chunk, Part, STRIP, finish};
use crate::backend::cpu::simd::vector::Vector;

/// A register of pairs of signed words.
///
/// # Safety
/// All functions need the instruction set.
pub(in crate::backend::cpu) unsafe trait Words: Vector {
    /// Bytes 0 and 2 of each integer as words, and bytes 1 and 3.
    unsafe fn pairs(bytes: Self::Ints) -> [Self::Ints; 2];

    /// `sum`, and in each lane the products of both words of `a` and `b`.
    unsafe fn multiply_add(sum: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints;
}

/// Keeps four weights of each row: the first and the third, the second and the fourth.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(in super::super) unsafe fn put<V: Words>(chunk: &mut Chunk, i: usize, v: usize, q: V::Ints) {
    // SAFETY: as the caller promises; a register is written within a line.
    unsafe {
        for (line, words) in chunk.quants[2 * i..2 * i + 2].iter_mut().zip(V::pairs(q)) {
            V::from_bits(words).store(line[v * V::LEN..][..V::LEN].as_mut_ptr().cast());
        }
    }
}

/// See [`Multiply::add`](super::Multiply::add): of `T` rows of x.
///
/// # Safety
/// The processor has the instruction set of `V`, and `x` is of T rows.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
pub(in super::super) unsafe fn add<V: Words, const T: usize>(chunk: &Chunk, x: &Part, totals: &mut [[f32; STRIP]]) {
    let vectors = STRIP / V::LEN;
    // SAFETY: as the caller promises: each row has the pairs of all sub-blocks, and so has the chunk.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; T];
        let mut pairs = [std::ptr::null::<u32>(); T];
        for t in 0..T {
            pairs[t] = x.lines.add(t * x.line_stride).cast::<u32>().add(x.at / 2);
        }
        let per_sub = x.sub_len / 2;
        for s in 0..x.n_subs {
            let mut integers = [[V::splat_ints(0); 2]; T];
            for p in s * per_sub..(s + 1) * per_sub {
                let quants = chunk.quants.as_ptr().add(p).cast::<u32>();
                let mut w = [V::splat_ints(0); 2];
                for v in 0..vectors {
                    w[v] = V::load_ints(quants.add(v * V::LEN));
                }
                for t in 0..T {
                    let pair = V::splat_ints(*pairs[t].add(p));
                    for v in 0..vectors {
                        integers[t][v] = V::multiply_add(integers[t][v], w[v], pair);
                    }
                }
            }
            for v in 0..vectors {
                let scale = V::load(chunk.scales.as_ptr().add(s).cast::<f32>().add(v * V::LEN));
                for t in 0..T {
                    sums[t][v] = sums[t][v].mul_add(V::from_ints(integers[t][v]), scale);
                }
            }
        }
        finish::<V, T>(chunk, x, sums, totals);
    }
}
