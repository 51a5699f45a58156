//! Scales and offsets of weight rows, unpacked before the rows are multiplied.
//!
//! Whatever a format keeps in its file, a weight is `scale · q` or `scale · q + min` here, with one of each for a block of
//! 32. Those of several rows are collected first and converted then, many at a time: a conversion right after its numbers
//! were stored piece by piece would wait until they have left the processor's store buffer.

use super::vector::{MAX_LANES, Vector};
use crate::quant::k_scales::Head;
use crate::quant::{q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// How a format keeps them.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    /// A block opens with its scale in half precision; its offset is this multiple of it.
    Half(f32),
    /// A block opens with its scale and its offset in half precision.
    Halves,
    /// Eight blocks open with a [`Head`].
    Head,
    /// Eight blocks share the half at this byte; what else there is of scales is multiplied into their quants.
    Shared(usize),
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
        Kept::Half(_) | Kept::Halves => 1,
        Kept::Head | Kept::Shared(_) => 8,
    };
    /// Whether there are offsets.
    const MINS: bool = match Self::KEPT {
        Kept::Half(per_scale) => per_scale != 0.0,
        Kept::Halves | Kept::Head => true,
        Kept::Shared(_) => false,
    };
    /// Whether the blocks of a group share a scale.
    const SHARED: bool = matches!(Self::KEPT, Kept::Shared(_));
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
    q4_k: Kept::Head;
    q5_k: Kept::Head;
    q6_k: Kept::Shared(208);
}

/// Scales, and offsets if the format has any, of each block of some rows, one row after the other.
pub(super) struct Scales<'a> {
    /// As many as blocks; as many as groups where they share one.
    scales: &'a mut [f32],
    mins: &'a mut [f32],
    /// Halves, or two of them, before they are converted.
    halves: &'a mut [u32],
}

/// f32s of scratch that [`Scales`] needs for `n_blocks`.
pub(super) const fn scratch_len(n_blocks: usize) -> usize {
    3 * padded(n_blocks)
}

/// Room for whole registers.
const fn padded(n_blocks: usize) -> usize {
    n_blocks.next_multiple_of(MAX_LANES) + MAX_LANES
}

impl<'a> Scales<'a> {
    /// In scratch of [`scratch_len`] numbers.
    pub(super) fn new(n_blocks: usize, scratch: &'a mut [f32]) -> Self {
        let (scales, rest) = scratch.split_at_mut(padded(n_blocks));
        let (mins, halves) = rest.split_at_mut(padded(n_blocks));
        Self { scales, mins, halves: bytemuck::cast_slice_mut(&mut halves[..padded(n_blocks)]) }
    }

    /// From the scale of block b on; the offsets likewise.
    #[inline(always)]
    pub(super) fn at(&self, b: usize) -> [*const f32; 2] {
        [self.scales[b..].as_ptr(), self.mins[b..].as_ptr()]
    }

    /// Where the scales and the offsets of the first `n_blocks` go.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn first(&mut self, n_blocks: usize) -> [*mut f32; 2] {
        assert!(n_blocks <= self.scales.len() - MAX_LANES, "{n_blocks} blocks do not fit");
        [self.scales.as_mut_ptr(), self.mins.as_mut_ptr()]
    }

    /// Fills in those of the `n_groups` groups from `p` on.
    ///
    /// # Safety
    /// The groups can be read, and the processor has the instruction set of `V`.
    #[inline(always)]
    pub(super) unsafe fn unpack<F: BlockScales, V: Vector>(&mut self, p: *const u8, n_groups: usize) {
        assert!(n_groups * F::GROUP <= self.scales.len() - MAX_LANES, "{n_groups} groups do not fit");
        let (scales, mins, halves) = (self.scales.as_mut_ptr(), self.mins.as_mut_ptr(), self.halves.as_mut_ptr());
        // SAFETY: there is room for the blocks, rounded up to registers, as was just asserted. There are eight times fewer
        // groups with heads than blocks, so that both halves of each have room where one of each block has.
        unsafe {
            let of_mins = halves.add(n_groups.next_multiple_of(MAX_LANES)).cast::<f32>();
            // Volatile, since the compiler would rather collect them in vector registers, which costs twice as much.
            for g in 0..n_groups {
                let p = p.add(g * F::GROUP_BYTES);
                halves.add(g).write_volatile(match F::KEPT {
                    Kept::Half(_) => p.cast::<u16>().read_unaligned().into(),
                    Kept::Halves | Kept::Head => p.cast::<u32>().read_unaligned(),
                    Kept::Shared(at) => p.add(at).cast::<u16>().read_unaligned().into(),
                });
            }
            for b in (0..n_groups).step_by(V::LEN) {
                let both = V::load_ints(halves.add(b));
                let d = V::from_half_bits(both);
                // Those of heads are for the integers in them.
                let [to_d, to_m] =
                    if matches!(F::KEPT, Kept::Head) { [halves.cast(), of_mins] } else { [scales, mins] };
                d.store(to_d.add(b));
                match F::KEPT {
                    Kept::Half(per_scale) if F::MINS => d.mul(V::splat(per_scale)).store(to_m.add(b)),
                    Kept::Halves | Kept::Head => V::from_half_bits(V::shift_right(both, 16)).store(to_m.add(b)),
                    _ => {}
                }
            }
            if matches!(F::KEPT, Kept::Head) {
                for g in 0..n_groups {
                    let (d, dmin) = (f32::from_bits(*halves.add(g)), -*of_mins.add(g));
                    let (s, m) = (*p.add(g * F::GROUP_BYTES).cast::<Head>()).unpack_integers();
                    scales.add(8 * g).cast::<[f32; 8]>().write_unaligned(s.map(|s| d * f32::from(s)));
                    mins.add(8 * g).cast::<[f32; 8]>().write_unaligned(m.map(|m| dmin * f32::from(m)));
                }
            }
        }
    }
}
