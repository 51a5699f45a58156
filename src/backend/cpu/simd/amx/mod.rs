//! x86-64 with AMX (Intel, from Sapphire Rapids, 2023, on): matrix products in registers of sixteen rows of 64 bytes, tiles.
//!
//! Products of many rows and attention of many, in brain floats, and products of a few, in bytes, are all that these are for;
//! what else there is to do runs with AVX-512. Compilers do not know the instructions yet, which is why they are written out
//! here. An operating system saves tiles only for processes that asked.

pub(super) mod attention;
mod few;
mod product;
mod split;

use std::arch::asm;
use std::arch::is_x86_feature_detected as has;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

pub(super) use self::few::{few, round};
pub(super) use self::product::{STRIP, multiply, scratch_len};
pub(super) use self::split::Packed;

/// Rows of a tile.
const TILE_ROWS: usize = 16;
/// Brain floats in a row of a tile.
const TILE_DEPTH: usize = 32;

/// A row of a tile.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u16; TILE_DEPTH]);

impl Line {
    const ZERO: Self = Self([0; TILE_DEPTH]);
}

/// Whether this processor can run what is here, and the operating system lets it.
pub(in crate::backend::cpu) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> =
        LazyLock::new(|| super::avx512::available() && has!("xsave") && has_tiles() && is_permitted());
    *AVAILABLE
}

/// Whether the processor has tiles and multiplies brain floats and bytes in them, and the operating system knows.
fn has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ALL: u32 = AMX_BF16 | AMX_TILE | AMX_INT8;
    const TILE_STATE: u64 = 0b11 << 17;

    #[target_feature(enable = "xsave")]
    fn saved_states() -> u64 {
        // SAFETY: the system enabled xsave, else the processor would not say that it has it; state 0 is always there.
        unsafe { _xgetbv(0) }
    }

    if __cpuid(0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: `available` asked for xsave.
    let saved = unsafe { saved_states() };
    features & ALL == ALL && saved & TILE_STATE == TILE_STATE
}

/// Asks Linux for tiles, for all threads of this process.
///
/// Source: the kernel's documentation, "Using XSTATE features in user space applications"
/// (<https://docs.kernel.org/arch/x86/xstate.html>).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Other systems have other ways, or none.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What two by two tiles of products add up to: of the rows of x 0 and 1 with the weight rows 0 and 1, 0·0, 0·1, 1·0, 1·1.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Sums([[[f32; TILE_ROWS]; TILE_ROWS]; 4]);

/// The tiles of this thread, set up for products, until this is dropped.
///
/// ```text
/// tiles 0 1      sums
///       2 3
/// tiles 4 5      rows of x
/// tiles 6 7      weight rows
/// ```
struct Tiles(());

impl Tiles {
    /// For tiles with `rows` rows of x, of `n_bytes` bytes each.
    fn new(rows: usize, n_bytes: usize) -> Self {
        /// As `ldtilecfg` reads it.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        assert!(available(), "the processor was asked before");
        assert!(
            (1..=TILE_ROWS).contains(&rows) && n_bytes <= size_of::<Line>(),
            "{rows} rows of {n_bytes} bytes in a tile"
        );
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(size_of::<Line>() as u16);
        config.row_bytes[4..6].fill(n_bytes as u16);
        config.rows[..6].fill(rows as u8);
        // Four bytes of each weight row in a row.
        config.rows[6..8].fill(n_bytes as u8 / 4);
        // SAFETY: the processor has tiles, and this process may use them; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
        Self(())
    }

    /// The products of two tiles of rows of x with two of weight rows, added up over `steps` steps. Both are sums of a higher
    /// part h and a lower part l; the products are h · h + l · h + h · l.
    ///
    /// # Safety
    /// For each step there are the tiles l0, l1, h0, h1 from `x` on and h0, h1, l0, l1 from `w` on.
    #[inline(always)]
    unsafe fn two_by_two(&self, x: *const Line, w: *const Line, steps: usize, sums: &mut Sums) {
        // Long rows of x come from beyond the second-level cache: what is ahead by two steps is asked for, any address will do.
        // SAFETY: the tiles are set up; all else is what the caller promises.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{w} + {line}]",
                "tileloadd tmm4, [{x} + {line}]",
                "tileloadd tmm7, [{w} + {line} + 1024]",
                "tileloadd tmm5, [{x} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm4, [{x} + {line} + 2048]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "prefetcht0 [{x} + 8192 + 64 * \\i]",
                "prefetcht0 [{w} + 4096 + 64 * \\i]",
                ".endr",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm5, [{x} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "prefetcht0 [{x} + 9216 + 64 * \\i]",
                "prefetcht0 [{w} + 5120 + 64 * \\i]",
                ".endr",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{w} + {line} + 2048]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{w} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "prefetcht0 [{x} + 10240 + 64 * \\i]",
                "prefetcht0 [{w} + 6144 + 64 * \\i]",
                ".endr",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "prefetcht0 [{x} + 11264 + 64 * \\i]",
                "prefetcht0 [{w} + 7168 + 64 * \\i]",
                ".endr",
                "add {x}, 4096",
                "add {w}, 4096",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                x = inout(reg) x => _,
                w = inout(reg) w => _,
                steps = inout(reg) steps => _,
                sums = in(reg) &raw mut *sums,
                line = in(reg) size_of::<Line>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// [`Tiles::two_by_two`] with one tile of rows of x, so that for each step there are l and h from `x` on, and only the first two
    /// sums are written. Products are added up in the same order: a row has the same bits with another tile beside it.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn one_by_two(&self, x: *const Line, w: *const Line, steps: usize, sums: &mut Sums) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm6, [{w} + {line}]",
                "tileloadd tmm4, [{x} + {line}]",
                "tileloadd tmm7, [{w} + {line} + 1024]",
                "tileloadd tmm5, [{x} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tileloadd tmm6, [{w} + {line} + 2048]",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tileloadd tmm7, [{w} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "add {x}, 2048",
                "add {w}, 4096",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                x = inout(reg) x => _,
                w = inout(reg) w => _,
                steps = inout(reg) steps => _,
                sums = in(reg) &raw mut *sums,
                line = in(reg) size_of::<Line>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles are set up, and nobody uses them any more.
        unsafe { asm!("tilerelease", options(nostack)) }
    }
}
