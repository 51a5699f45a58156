//! Scales and offsets of weight rows, unpacked before the rows are multiplied.
//!
//! Whatever a format keeps in its file, a weight is `scale · q` or `scale · q + min` here, with one of each for a block of
//! 32, or an offset for each half of it. Those of several rows are collected first and converted then, many at a time: a conversion right after its numbers
//! were stored piece by piece would wait until they have left the processor's store buffer.

use super::vector::{MAX_LANES, Vector};
use crate::quant::k_scales::Head;
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// How a format keeps them.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    /// A block opens with its scale in half precision; its offset is this multiple of it.
    Half(f32),
    /// A block opens with its scale and its offset in half precision.
    Halves,
    /// Eight blocks open with a [`Head`].
    Head,
    /// A block opens with its scale as the exponent of MXFP4.
    Power,
    /// Eight blocks open with the head of IQ4_XS.
    Sixes,
    /// Eight blocks share the half at this byte; what else there is of scales is multiplied into their quants.
    Shared(usize),
    /// The same, and behind that half is one for offsets; half a block's is as many as the upper nibble of its byte says,
    /// the first bytes of all.
    SharedNibbles(usize),
}

/// A format as it lies in the file.
///
/// # Safety
/// [`Kept`] says what there is in each group.
pub(super) unsafe trait BlockScales {
    /// Bytes of a group, what the file calls a block.
    const GROUP_BYTES: usize;
    /// Scales and offsets.
    const KEPT: Kept;
    /// Blocks of 32 in a group.
    const GROUP: usize = match Self::KEPT {
        Kept::Half(_) | Kept::Halves | Kept::Power => 1,
        Kept::Head | Kept::Sixes | Kept::Shared(_) | Kept::SharedNibbles(_) => 8,
    };
    /// Whether there are offsets.
    const MINS: bool = match Self::KEPT {
        Kept::Half(per_scale) => per_scale != 0.0,
        Kept::Halves | Kept::Head | Kept::SharedNibbles(_) => true,
        Kept::Power | Kept::Sixes | Kept::Shared(_) => false,
    };
    /// Whether each half of a block has an offset.
    const HALF_MINS: bool = matches!(Self::KEPT, Kept::SharedNibbles(_));
    /// Whether the blocks of a group share a scale.
    const SHARED: bool = matches!(Self::KEPT, Kept::Shared(_) | Kept::SharedNibbles(_));
}

macro_rules! kept {
    ($($format:ident: $kept:expr;)*) => {$(
        // SAFETY: see the struct.
        unsafe impl BlockScales for $format::Block {
            const GROUP_BYTES: usize = size_of::<Self>();
            const KEPT: Kept = $kept;
        }
    )*};
}

kept! {
    // The nibbles are 8 too large.
    q4_0: Kept::Half(-8.0);
    q4_1: Kept::Halves;
    q5_0: Kept::Half(0.0);
    q5_1: Kept::Halves;
    q8_0: Kept::Half(0.0);
    q2_k: Kept::SharedNibbles(80);
    q3_k: Kept::Shared(108);
    q4_k: Kept::Head;
    q5_k: Kept::Head;
    q6_k: Kept::Shared(208);
    iq4_nl: Kept::Half(0.0);
    iq4_xs: Kept::Sixes;
    mxfp4: Kept::Power;
}

/// `$call` with `$block` as the block of `$format`: the one list of the block formats that there are kernels for.
macro_rules! with_block {
    ($format:expr, $block:ident => $call:expr) => {
        with_block!($format, $block => $call,
            "Q4_0" q4_0, "Q4_1" q4_1, "Q5_0" q5_0, "Q5_1" q5_1, "Q8_0" q8_0,
            "Q2_K" q2_k, "Q3_K" q3_k, "Q4_K" q4_k, "Q5_K" q5_k, "Q6_K" q6_k,
            "IQ4_NL" iq4_nl, "IQ4_XS" iq4_xs, "MXFP4" mxfp4)
    };
    ($format:expr, $block:ident => $call:expr, $($name:literal $module:ident),*) => {
        match $format.name {
            $($name => {
                type $block = $crate::quant::$module::Block;
                $call
            })*
            name => unreachable!("no kernel for {name}"),
        }
    };
}
pub(super) use with_block;

/// Defines `$name`, a product of any block format: `$product`, in which `$format` is the format, compiled for `$features`.
#[cfg(target_arch = "x86_64")]
macro_rules! of_blocks {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $product:expr, $format:ident: $bound:path,
        if $available:path, for $features:literal) => {
        $(#[$meta])*
        $vis fn $name(
            weight: &$crate::quant::Weight,
            bias: Option<&[f32]>,
            x: &$crate::backend::cpu::simd::activations::Activations,
            y: &mut $crate::backend::cpu::threads::Columns<'_>,
            scratch: &mut [f32],
        ) {
            use $crate::backend::cpu::simd::scales::with_block;

            /// # Safety
            /// The processor has the features.
            #[target_feature(enable = $features)]
            unsafe fn of_format<$format: $bound>(
                weight: &$crate::quant::Weight,
                bias: Option<&[f32]>,
                x: &$crate::backend::cpu::simd::activations::Activations,
                y: &mut $crate::backend::cpu::threads::Columns<'_>,
                scratch: &mut [f32],
            ) {
                // SAFETY: as the caller promises.
                unsafe { $product(weight, bias, x, y, scratch) }
            }
            assert!($available(), "the processor was asked before");
            // SAFETY: the processor has the features.
            unsafe { with_block!(weight.format, B => of_format::<B>(weight, bias, x, y, scratch)) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use of_blocks;

/// Scales, and offsets if the format has any, of each block of some rows, one row after the other.
pub(super) struct Scales<'a> {
    /// As many as blocks; as many as groups where they share one.
    scales: &'a mut [f32],
    /// As many as blocks; twice as many where each half has one.
    mins: &'a mut [f32],
    /// Halves, or two of them, before they are converted.
    halves: &'a mut [u32],
}

/// f32s of scratch that [`Scales`] needs for `n_blocks`.
pub(super) const fn scratch_len(n_blocks: usize) -> usize {
    4 * padded(n_blocks)
}

/// Room for whole registers.
const fn padded(n_blocks: usize) -> usize {
    n_blocks.next_multiple_of(MAX_LANES) + MAX_LANES
}

impl<'a> Scales<'a> {
    /// In scratch of [`scratch_len`] numbers.
    pub(super) fn new(n_blocks: usize, scratch: &'a mut [f32]) -> Self {
        let (scales, rest) = scratch.split_at_mut(padded(n_blocks));
        let (mins, halves) = rest.split_at_mut(2 * padded(n_blocks));
        Self { scales, mins, halves: bytemuck::cast_slice_mut(&mut halves[..padded(n_blocks)]) }
    }

    /// From the scale of block b on, or of its group; the offsets likewise.
    #[inline(always)]
    pub(super) fn at<F: BlockScales>(&self, b: usize) -> [*const f32; 2] {
        let scale = if F::SHARED { b / F::GROUP } else { b };
        let min = if F::HALF_MINS { 2 * b } else { scale };
        [self.scales[scale..].as_ptr(), self.mins[min..].as_ptr()]
    }

    /// Fills in those of the `n_groups` groups from `p` on, as the ones from block `at` on; what is behind them is lost.
    ///
    /// # Safety
    /// The groups can be read, and the processor has the instruction set of `V`.
    #[inline(always)]
    pub(super) unsafe fn unpack<F: BlockScales, V: Vector>(&mut self, at: usize, p: *const u8, n_groups: usize) {
        let n_blocks = at + n_groups * F::GROUP;
        assert!(n_blocks <= self.scales.len() - MAX_LANES, "{n_blocks} blocks do not fit");
        let [scales, mins] = self.at::<F>(at).map(<*const f32>::cast_mut);
        let halves = self.halves.as_mut_ptr();
        // SAFETY: there is room for the blocks, rounded up to registers, as was just asserted. There are eight times fewer
        // groups with heads than blocks, so that both halves of each have room where one of each block has.
        unsafe {
            let of_mins = halves.add(n_groups.next_multiple_of(MAX_LANES)).cast::<f32>();
            if matches!(F::KEPT, Kept::Power) {
                (0..n_groups).for_each(|g| scales.add(g).write(mxfp4::power(*p.add(g * F::GROUP_BYTES))));
                return;
            }
            // Those of groups are for the integers in them.
            let to_d = if matches!(F::KEPT, Kept::Head | Kept::Sixes) { halves.cast() } else { scales };
            let to_m = if matches!(F::KEPT, Kept::Halves | Kept::Half(_)) { mins } else { of_mins };
            let convert = |b: usize, both: V::Ints| match F::KEPT {
                Kept::Halves | Kept::Head | Kept::SharedNibbles(_) => {
                    let [d, m] = V::from_two_halves(both);
                    d.store(to_d.add(b));
                    m.store(to_m.add(b));
                }
                _ => {
                    let d = V::from_half_bits(both);
                    d.store(to_d.add(b));
                    if let Kept::Half(per_scale) = F::KEPT
                        && F::MINS
                    {
                        d.mul(V::splat(per_scale)).store(to_m.add(b));
                    }
                }
            };
            let mut done = 0;
            // Groups that open with them have 16 bytes there. The last ones have some of those before them once more.
            if F::GROUP == 1 && n_groups >= V::LEN {
                while done < n_groups
                    && let b = done.min(n_groups - V::LEN)
                    && let Some(both) = V::spread(p.add(b * F::GROUP_BYTES), F::GROUP_BYTES)
                {
                    convert(b, both);
                    done = b + V::LEN;
                }
            }
            // Volatile, since the compiler would rather collect them in vector registers, which costs twice as much.
            for g in done..n_groups {
                let p = p.add(g * F::GROUP_BYTES);
                halves.add(g).write_volatile(match F::KEPT {
                    Kept::Half(_) | Kept::Power | Kept::Sixes => p.cast::<u16>().read_unaligned().into(),
                    Kept::Halves | Kept::Head => p.cast::<u32>().read_unaligned(),
                    Kept::Shared(at) => p.add(at).cast::<u16>().read_unaligned().into(),
                    Kept::SharedNibbles(at) => p.add(at).cast::<u32>().read_unaligned(),
                });
            }
            (done..n_groups).step_by(V::LEN).for_each(|b| convert(b, V::load_ints(halves.add(b))));
            for g in 0..n_groups {
                let (p, d) = (p.add(g * F::GROUP_BYTES), f32::from_bits(*halves.add(g)));
                match F::KEPT {
                    Kept::Head => {
                        let (dmin, (s, m)) = (-*of_mins.add(g), (*p.cast::<Head>()).unpack_integers());
                        scales.add(8 * g).cast::<[f32; 8]>().write_unaligned(s.map(|s| d * f32::from(s)));
                        mins.add(8 * g).cast::<[f32; 8]>().write_unaligned(m.map(|m| dmin * f32::from(m)));
                    }
                    Kept::Sixes => {
                        let s = (*p.cast::<iq4_xs::Head>()).scales();
                        scales.add(8 * g).cast::<[f32; 8]>().write_unaligned(s.map(|s| d * (f32::from(s) - 32.0)));
                    }
                    Kept::SharedNibbles(_) => {
                        let (dmin, bytes) = (-*of_mins.add(g), *p.cast::<[u8; 16]>());
                        mins.add(16 * g).cast::<[f32; 16]>().write_unaligned(bytes.map(|b| dmin * f32::from(b >> 4)));
                    }
                    _ => {}
                }
            }
        }
    }
}
