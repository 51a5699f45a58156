//! x86-64 with tiles (AMX): Sapphire Rapids and later. Products of many rows; all else is as with AVX-512.
//!
//! Tiles multiply numbers of eight significant bits (bf16) and add up in f32. Each number is therefore taken as the sum of two
//! of them, and of the four products the three that matter are computed: about 16 bits of each number count, as many as
//! where activations are rounded to integers.
//!
//! Tiles are used in assembly, since the compiler's functions for them are not stable. Source: Intel 64 and IA-32 Architectures
//! Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::gemm::{DEPTH, Multiply, unpack};
use super::vector::Vector;
use super::{avx512, gemm};
use crate::backend::cpu::threads::Columns;

/// Rows of x, and weight rows, that are taken together: two tiles of each.
const SIDE: usize = 32;
/// Weights of a row in a tile.
const STEP: usize = 32;
/// Rows of a tile.
const ROWS: usize = 16;
/// f32s in as much room as the tiles of a step take: two high ones, and two low ones.
const GROUP: usize = SIDE * STEP;

/// Whether this processor can run what is here, and the system lets us.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| avx512::available() && has_tiles() && may_use_tiles())
}

fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    if __cpuid(0).eax < 7 {
        return false;
    }
    __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks the system for the tiles' state, which it otherwise does not save.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: it reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// f32s of scratch that [`multiply`] needs: a panel, its tiles, and those of y.
pub(super) fn scratch_len(k: usize) -> usize {
    2 * k.min(DEPTH).next_multiple_of(STEP) * SIDE + SIDE * SIDE + ROWS
}

/// f32s that packed rows take.
pub(super) fn packed_len(n_rows: usize, k: usize) -> usize {
    n_rows.next_multiple_of(SIDE) * k.next_multiple_of(STEP)
}

/// Rows in a block of packed rows.
pub(super) const BLOCK: usize = SIDE;

/// Packs rows of x `[T, K]` from row `first` on into a block: tiles of the high parts and of the low ones, step by step.
pub(super) fn pack(x: &[f32], k: usize, first: usize, block: &mut [f32]) {
    assert!(available(), "the processor was asked before");
    // SAFETY: the processor has the instruction set.
    unsafe { pack_rows(x, k, first, block) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_rows(x: &[f32], k: usize, first: usize, block: &mut [f32]) {
    let n_rows = (x.len() / k - first).min(SIDE);
    for (step, group) in block.chunks_exact_mut(GROUP).enumerate() {
        let here = STEP.min(k - step * STEP);
        let group = group.as_mut_ptr().cast::<u16>();
        for r in 0..SIDE {
            let mut high = [_mm256_setzero_si256(); 2];
            let mut low = high;
            if r < n_rows {
                let row = &x[(first + r) * k + step * STEP..][..here];
                for (half, numbers) in row.chunks(16).enumerate() {
                    // SAFETY: as many numbers are read as there are.
                    let x = unsafe { _mm512_maskz_loadu_ps(((1u32 << numbers.len()) - 1) as u16, numbers.as_ptr()) };
                    let [h, l] = split(x);
                    high[half] = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(h));
                    low[half] = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(l));
                }
            }
            // SAFETY: a group has two tiles of high parts and two of low ones, each of 16 rows of 32 numbers.
            unsafe {
                for half in 0..2 {
                    let to = group.add(r * STEP + 16 * half);
                    _mm256_storeu_si256(to.cast(), high[half]);
                    _mm256_storeu_si256(to.add(SIDE * STEP).cast(), low[half]);
                }
            }
        }
    }
}

/// Numbers as the sum of two that have eight significant bits, in the upper halves of what is returned; the lower halves have
/// bits, too.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(x: __m512) -> [__m512i; 2] {
    let rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    let high = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    // Cut off, not rounded: so a NaN, which may overflow above, stays one here.
    [high, _mm512_castps_si512(_mm512_sub_ps(x, _mm512_castsi512_ps(high)))]
}

/// y = x · Wᵀ + bias, as [`gemm::multiply`].
pub(super) fn multiply(task: Multiply<'_, '_>) {
    assert!(available(), "the processor was asked before");
    // SAFETY: the processor has the instruction set, and the system saves tiles.
    unsafe {
        configure();
        columns(task);
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

/// Eight tiles of 16 rows of 64 bytes.
unsafe fn configure() {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    static CONFIGURATION: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    // SAFETY: the callers have tiles.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags)) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn columns(task: Multiply<'_, '_>) {
    let Multiply { weight, bias, x, y, scratch } = task;
    let (k, n_rows) = x.shape();
    assert_eq!((k, n_rows), (weight.row_len(), y.n_rows()), "rows of x, of the weight and of y");
    let columns = y.range();
    let unaligned = scratch.as_ptr().align_offset(64);
    let (panel, rest) = scratch[unaligned..].split_at_mut(k.min(DEPTH).next_multiple_of(STEP) * SIDE);
    let (tiles, sums) = rest.split_at_mut(panel.len());
    let sums = &mut sums[..SIDE * SIDE];
    for first in columns.clone().step_by(SIDE) {
        let n = SIDE.min(columns.end - first);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let steps = depth.div_ceil(STEP);
            // SAFETY: the panel and its tiles have room, and packed rows have as many steps.
            unsafe {
                for v in 0..2 {
                    let at = (first + 16 * v).min(columns.end - 1);
                    let rows = at..columns.end.min(at + 16);
                    unpack::unpack::<avx512::vector::Lanes>(weight, rows, start, depth, &mut panel[16 * v..], SIDE);
                }
                panel[depth * SIDE..steps * GROUP].fill(0.0);
                to_tiles(&panel[..steps * GROUP], tiles);
                for t in (0..n_rows).step_by(SIDE) {
                    let x = x.block_from(t, start / STEP * GROUP);
                    product(x.as_ptr(), tiles.as_ptr(), steps, sums.as_mut_ptr());
                    let bias = bias.filter(|_| start == 0).map(|bias| &bias[first..first + n]);
                    store(sums, y, t, first, n, bias, start > 0);
                }
            }
        }
    }
}

/// Turns a panel `[K, 32]` into tiles: two high ones and two low ones for each step, whose rows are pairs of weights.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn to_tiles(panel: &[f32], tiles: &mut [f32]) {
    for (panel, tiles) in panel.chunks_exact(GROUP).zip(tiles.chunks_exact_mut(GROUP)) {
        for pair in 0..STEP / 2 {
            for v in 0..2 {
                // SAFETY: a group is 32 rows of 32 numbers, and as large in tiles.
                unsafe {
                    let [even, odd] = [0, 1].map(|i| {
                        let w = panel.as_ptr().add((2 * pair + i) * SIDE + 16 * v);
                        split(_mm512_loadu_ps(w))
                    });
                    for (part, to) in [(0, 0), (1, 2)] {
                        let low = _mm512_srli_epi32::<16>(even[part]);
                        let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, low, odd[part]);
                        let to = tiles.as_mut_ptr().add((to + v) * GROUP / 4 + 16 * pair);
                        _mm512_storeu_si512(to.cast(), both);
                    }
                }
            }
        }
    }
}

/// Two tiles of rows of x with two of weights, of `steps` steps: sums `[32, 32]`.
unsafe fn product(x: *const f32, w: *const f32, steps: usize, sums: *mut f32) {
    // SAFETY: the callers have tiles, and as many steps of four tiles of 1,024 bytes; no other code uses tiles.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            // The high parts of x, the low ones of w.
            "tileloadd tmm4, [{x} + {row}]",
            "tileloadd tmm6, [{w} + {row} + 2048]",
            "tileloadd tmm7, [{w} + {row} + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x} + {row} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm6, [{w} + {row}]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm7, [{w} + {row} + 1024]",
            // The high parts of both.
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{x} + {row} + 2048]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm5, [{x} + {row} + 3072]",
            // The low parts of x, the high ones of w.
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 4096",
            "add {w}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {sums_row}], tmm0",
            "tilestored [{sums} + {sums_row} + 64], tmm1",
            "tilestored [{sums} + {sums_row} + 2048], tmm2",
            "tilestored [{sums} + {sums_row} + 2112], tmm3",
            x = inout(reg) x => _,
            w = inout(reg) w => _,
            steps = inout(reg) steps => _,
            sums = in(reg) sums,
            row = in(reg) 64_usize,
            sums_row = in(reg) SIDE * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Writes, or adds, n columns of the sums to the rows of y from t on.
fn store(sums: &[f32], y: &mut Columns<'_>, t: usize, first: usize, n: usize, bias: Option<&[f32]>, add: bool) {
    let at = first - y.range().start;
    for (r, sums) in sums.chunks_exact(SIDE).take(y.n_rows() - t).enumerate() {
        let to = &mut y.row(t + r)[at..at + n];
        match bias {
            _ if add => to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
            Some(bias) => to.iter_mut().zip(sums).zip(bias).for_each(|((to, sum), bias)| *to = sum + bias),
            None => to.copy_from_slice(&sums[..n]),
        }
    }
}

const _: () = assert!(DEPTH.is_multiple_of(STEP) && gemm::VECTORS * <avx512::vector::Lanes as Vector>::LEN == SIDE);
