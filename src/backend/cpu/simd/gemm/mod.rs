//! Products of several rows of x: a matrix product in f32, with exact weights.
//!
//! A strip of weight rows, one to a lane, is dequantized into a panel `[K, lanes]` that stays in the second-level cache, and
//! multiplied with all rows of x: some rows at a time, whose sums stay in registers. x is packed for that once a product.
//! No number is rounded but in f32 sums, so that prompts are as exact as the reference.
//!
//! Source: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008).

mod formats;
pub(super) mod unpack;

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::vector::{Kernel, MAX_LANES, Vector};
use crate::backend::cpu::threads::{Columns, Pool};
use crate::quant::Weight;

/// Vectors of weight rows in a strip.
const VECTORS: usize = 2;
/// Weights of a row that are unpacked at a time: whole blocks of all formats.
const DEPTH: usize = 2048;
/// Rows of x that are taken together at most, with 16 registers and with 32.
const ROWS: [usize; 2] = [6, 12];

/// f32s of scratch that [`multiply`] needs for rows of `k` weights.
pub(in crate::backend::cpu) fn scratch_len(isa: Isa, k: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::scratch_len(k),
        // One register more for alignment.
        _ => (k.min(DEPTH) * VECTORS + 1) * MAX_LANES,
    }
}

/// Columns of y that are computed together: tasks should have whole multiples.
pub(in crate::backend::cpu) fn strip(isa: Isa) -> usize {
    struct Strip;
    impl Kernel for Strip {
        type Output = usize;
        #[inline(always)]
        unsafe fn run<V: Vector>(self) -> usize {
            VECTORS * V::LEN
        }
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::STRIP,
        _ => isa.run(Strip),
    }
}

/// Rows of x as [`multiply`] reads them: in blocks of a few, each block `[K, rows]`.
#[derive(Debug, Default)]
pub(in crate::backend::cpu) struct Packed {
    n_rows: usize,
    k: usize,
    /// Rows in a block; the last ones may have one less.
    block: usize,
    data: Vec<f32>,
    /// What AMX reads in their place.
    #[cfg(target_arch = "x86_64")]
    tiles: amx::Packed,
}

impl Packed {
    /// Packs the rows x `[T, K]`.
    pub(in crate::backend::cpu) fn fill(&mut self, isa: Isa, pool: &mut Pool, x: &[f32], k: usize) {
        struct Rows;
        impl Kernel for Rows {
            type Output = usize;
            #[inline(always)]
            unsafe fn run<V: Vector>(self) -> usize {
                ROWS[usize::from(V::REGISTERS > 16)]
            }
        }
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx {
            return self.tiles.fill(pool, x, k);
        }
        let n_rows = x.len() / k;
        // Blocks of one size, so that none is left with a single row.
        let block = n_rows.div_ceil(n_rows.div_ceil(isa.run(Rows)));
        (self.n_rows, self.k, self.block) = (n_rows, k, block);
        self.data.resize(self.data.len().max(x.len()), 0.0);
        let blocks = self.data[..x.len()].chunks_mut(block * k).zip(x.chunks(block * k));
        pool.each(blocks.collect(), |(block, x)| pack(x, k, block));
    }

    /// Bytes that are held.
    pub(in crate::backend::cpu) fn bytes(&self) -> usize {
        let bytes = size_of_val(&self.data[..]);
        #[cfg(target_arch = "x86_64")]
        let bytes = bytes + self.tiles.bytes();
        bytes
    }

    fn block(&self, i: usize) -> &[f32] {
        let end = self.n_rows.min((i + 1) * self.block);
        &self.data[i * self.block * self.k..end * self.k]
    }
}

/// Packs rows x `[rows, K]` into a block.
fn pack(x: &[f32], k: usize, block: &mut [f32]) {
    let rows = block.len() / k;
    for (i, column) in block.chunks_exact_mut(rows).enumerate() {
        for (r, to) in column.iter_mut().enumerate() {
            *to = x[r * k + i];
        }
    }
}

/// y[t, m] = x[t] · W[m] + bias[m] for all rows t of x and the columns m that y has.
///
/// W `[M, K]`, y `[T, M]`, bias `[M]`; scratch has [`scratch_len`] numbers.
pub(in crate::backend::cpu) fn multiply(
    isa: Isa,
    weight: &Weight,
    bias: Option<&[f32]>,
    x: &Packed,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::multiply(weight, bias, &x.tiles, y, scratch),
        _ => isa.run(Multiply { weight, bias, x, y, scratch }),
    }
}

struct Multiply<'a, 'b> {
    weight: &'a Weight,
    bias: Option<&'a [f32]>,
    x: &'a Packed,
    y: &'a mut Columns<'b>,
    scratch: &'a mut [f32],
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { weight, bias, x, y, scratch } = self;
        assert_eq!((x.k, x.n_rows), (weight.row_len(), y.n_rows()), "rows of x, of the weight and of y");
        let columns = y.range();
        let width = VECTORS * V::LEN;
        // Panels begin where registers do.
        let unaligned = scratch.as_ptr().align_offset(MAX_LANES * size_of::<f32>());
        let panel = &mut scratch[unaligned..];
        assert!(panel.len() >= x.k.min(DEPTH) * width, "room for a panel");
        for first in columns.clone().step_by(width) {
            let n = width.min(columns.end - first);
            for k in (0..x.k).step_by(DEPTH) {
                let depth = DEPTH.min(x.k - k);
                // SAFETY: the processor has the instruction set, the panel has room for `depth` rows of it, and the weight
                // has the rows.
                unsafe {
                    for v in 0..VECTORS {
                        let start = (first + v * V::LEN).min(columns.end - 1);
                        let rows = V::LEN.min(columns.end - start);
                        unpack::unpack::<V>(weight, start..start + rows, k, depth, &mut panel[v * V::LEN..], width);
                    }
                    let panel = panel.as_ptr();
                    for i in 0..x.n_rows.div_ceil(x.block) {
                        let block = x.block(i);
                        let strip = Strip { panel, k, depth, first, n, bias: if k == 0 { bias } else { None } };
                        block_of_rows::<V>(strip, block, block.len() / x.k, i * x.block, y);
                    }
                }
            }
        }
    }
}

/// A panel, and which columns of y it is for.
#[derive(Clone, Copy)]
struct Strip<'a> {
    panel: *const f32,
    /// The first weight of each row that it has, and how many of them.
    k: usize,
    depth: usize,
    first: usize,
    n: usize,
    bias: Option<&'a [f32]>,
}

/// Multiplies `rows` packed rows of x, which are those of y from t on.
#[inline(always)]
unsafe fn block_of_rows<V: Vector>(strip: Strip<'_>, x: &[f32], rows: usize, t: usize, y: &mut Columns<'_>) {
    // SAFETY: as the caller promises.
    unsafe {
        match rows {
            1 => tile::<V, 1>(strip, x, t, y),
            2 => tile::<V, 2>(strip, x, t, y),
            3 => tile::<V, 3>(strip, x, t, y),
            4 => tile::<V, 4>(strip, x, t, y),
            5 => tile::<V, 5>(strip, x, t, y),
            6 => tile::<V, 6>(strip, x, t, y),
            7 if V::REGISTERS > 16 => tile::<V, 7>(strip, x, t, y),
            8 if V::REGISTERS > 16 => tile::<V, 8>(strip, x, t, y),
            9 if V::REGISTERS > 16 => tile::<V, 9>(strip, x, t, y),
            10 if V::REGISTERS > 16 => tile::<V, 10>(strip, x, t, y),
            11 if V::REGISTERS > 16 => tile::<V, 11>(strip, x, t, y),
            12 if V::REGISTERS > 16 => tile::<V, 12>(strip, x, t, y),
            rows => unreachable!("blocks of {rows} rows"),
        }
    }
}

/// `R` rows of x with a strip: the sums stay in registers.
#[expect(clippy::needless_range_loop, reason = "registers by index: iterators over them are not always inlined")]
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize>(strip: Strip<'_>, x: &[f32], t: usize, y: &mut Columns<'_>) {
    let Strip { panel, k, depth, first, n, bias } = strip;
    let at = first - y.range().start;
    // SAFETY: x has R numbers and the panel `VECTORS` vectors for each of the `depth` weights; y has n columns from the strip's
    // first on, and they are written only as far as that.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; R];
        let mut x = x.as_ptr().add(k * R);
        let mut w = panel;
        for _ in 0..depth {
            let weights: [V; VECTORS] = [V::load(w), V::load(w.add(V::LEN))];
            for r in 0..R {
                let number = V::splat(*x.add(r));
                for v in 0..VECTORS {
                    sums[r][v] = sums[r][v].mul_add(weights[v], number);
                }
            }
            x = x.add(R);
            w = w.add(VECTORS * V::LEN);
        }
        for v in 0..VECTORS {
            let here = V::LEN.min(n.saturating_sub(v * V::LEN));
            if here == 0 {
                continue;
            }
            let bias = bias.map(|bias| V::load_first(bias[first + v * V::LEN..][..here].as_ptr(), here));
            for r in 0..R {
                let to = y.row(t + r)[at + v * V::LEN..][..here].as_mut_ptr();
                let mut sum = sums[r][v];
                if k > 0 {
                    sum = V::load_first(to, here).add(sum);
                }
                if let Some(bias) = bias {
                    sum = sum.add(bias);
                }
                sum.store_first(to, here);
            }
        }
    }
}

const _: () = assert!(DEPTH.is_multiple_of(256), "whole blocks of all formats");
