//! What the fast path of the CPU computes with: wide vectors, for the processors that are found to have them.
//!
//! What all processors do alike is written once over [`vector::Vector`], a register of f32s, and compiled for each
//! instruction set. What is best done differently has a folder for each of them: products of few rows with weights as they
//! lie in the file. These round activations to 16 bits (`activations`), unpack block formats to integers, and multiply the
//! two exactly up to the sum of a block.
//!
//! `ops` has the reference of each of these, and is what runs where there is no instruction set of [`Isa::ALL`].

pub(super) mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod elementwise;
#[cfg(target_arch = "x86_64")]
mod few;
mod floats;
pub(super) mod gemm;
pub(super) mod kv;
pub(in crate::backend) mod logits;
mod math;
mod matvec;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scales;
pub(super) mod vector;

use std::fmt;
use std::str::FromStr;

use self::activations::{ActivationRowMut, Activations};
use self::vector::Kernel;
use super::threads::Columns;
use crate::quant::{Format, Weight};

/// An instruction set that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX2, FMA and F16C: processors since 2013 (Intel) and 2015 (AMD).
    Avx2,
    /// x86-64 with the AVX-512 of Ice Lake (Intel, 2019) and Zen 4 (AMD, 2022).
    Avx512,
    /// The same with tiles of bf16: Sapphire Rapids (Intel, 2023), on Linux.
    Amx,
    /// aarch64: all of its processors.
    Neon,
    /// aarch64 with products of bytes (`dotprod`): most processors since 2018.
    NeonDot,
    /// aarch64 with products of matrices of bytes (`i8mm`): Apple's since the M2, Arm's since 2021.
    NeonI8mm,
}

impl Isa {
    /// All of them, better ones last.
    pub const ALL: [Isa; 6] = [Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];

    /// The best one that this processor has.
    pub fn best() -> Option<Isa> {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available())
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::available(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => neon::available(self),
            _ => false,
        }
    }

    /// Its name: `avx2`, `neon-dot`, …
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dot",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// Runs `kernel`, compiled for this instruction set.
    ///
    /// # Panics
    /// If the processor does not have it.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.is_available(), "a kernel for {self} on a processor without it");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the instruction set, as was just asserted.
            Isa::Avx2 => unsafe { avx2::vector::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { avx512::vector::run(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::vector::run(kernel) },
            _ => unreachable!("is not available"),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or(())
    }
}

/// Asks memory for the line at an address, for the second-level cache, on processors that have a way to say so.
#[inline(always)]
pub(super) fn prefetch_far(address: usize) {
    #[cfg(target_arch = "x86_64")]
    use self::avx2::vector::Lanes;
    #[cfg(target_arch = "aarch64")]
    use self::neon::vector::Lanes;

    let p = std::ptr::without_provenance::<u8>(address);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: an instruction that every such processor has.
    unsafe {
        <Lanes as vector::Vector>::prefetch(p, false);
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// Parts of a task's weight rows that are read side by side, for one row of x.
pub(super) const STREAMS: usize = matvec::M;

/// What a matrix is multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// `[T, K]`
    pub(super) x: &'a [f32],
    /// The same, rounded; empty if no matrix wants it so.
    pub(super) rounded: &'a Activations,
}

/// Whether products of few rows with this format take rounded activations.
pub(super) fn wants_rounded(format: &Format) -> bool {
    format.block_len > 1
}

/// Rows of x that are few on x86-64, at most; with weights that are floats, and elsewhere, it is fewer. Attention is by tiles from
/// one more on as well, so that a row has the same bits among any few and among any more.
const FEW: usize = 32;

/// Whether `n_rows` rows of x are few: multiplied with these formats by [`matvec`], and not by way of a panel ([`gemm`]).
pub(super) fn are_few<'a>(isa: Isa, n_rows: usize, mut formats: impl Iterator<Item = &'a Format>) -> bool {
    let is_x86 = matches!(isa, Isa::Avx2 | Isa::Avx512 | Isa::Amx);
    n_rows <= if is_x86 && formats.all(wants_rounded) { FEW } else { 8 }
}

/// f32s of scratch that [`matvec`] needs for rows of `k` weights.
pub(super) fn matvec_scratch_len(k: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    return matvec::scratch_len(k).max(few::SCRATCH_LEN).max(avx512::scratch_len(k));
    #[cfg(not(target_arch = "x86_64"))]
    matvec::scratch_len(k)
}

/// The orders of digits that no product of one row with these formats reads, for [`Activations::leave_out`].
pub(super) fn left_out<'a>(isa: Isa, formats: impl Iterator<Item = &'a Format>) -> u8 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => {
            !formats.filter(|format| wants_rounded(format)).fold(0, |orders, format| orders | avx512::order(format))
        }
        _ => {
            let _ = formats;
            0
        }
    }
}

/// Rounds a row of x, the whole of `out`, as [`matvec`] takes it.
pub(super) fn round(isa: Isa, x: &[f32], out: ActivationRowMut<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::round(x, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::round(x, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::round(x, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => neon::quantize(isa, x, out),
        _ => unreachable!("is not available"),
    }
}

/// y[t, m] = x[t] · W[m] + bias[m] for few rows t of x, for the columns m that y has.
///
/// W `[M, K]`, y `[T, M]`, bias `[M]`; scratch has [`matvec_scratch_len`] numbers.
pub(super) fn matvec(
    isa: Isa,
    weight: &Weight,
    bias: Option<&[f32]>,
    input: Input<'_>,
    y: &mut Columns<'_>,
    scratch: &mut [f32],
) {
    if !wants_rounded(weight.format) {
        return floats::matvec(isa, weight, bias, input, y);
    }
    let x = input.rounded;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if x.n_rows() > 1 => avx2::few(weight, bias, x, y, scratch),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if x.n_rows() > 1 => avx512::few(weight, bias, x, y, scratch),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx if x.n_rows() > 1 => amx::few(weight, bias, x, y, scratch),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::product(weight, bias, x, y, scratch),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::product(weight, bias, x, y, scratch),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => neon::product(isa, weight, bias, x, y, scratch),
        _ => unreachable!("is not available"),
    }
}
