//! Scales and offsets of the blocks of a chunk, from the file straight into registers.

use std::arch::x86_64::*;

use super::formats::{Unpack, take};
use crate::backend::cpu::simd::activations::CHUNK_BLOCKS;
use crate::backend::cpu::simd::scales::Kept;
use crate::quant::iq4_xs;
use crate::quant::k_scales::Head;

/// Of the blocks of a chunk, or as many as there are: zeros in the lanes of others.
#[derive(Clone, Copy)]
pub(super) struct ChunkScales {
    /// Lane i · [`n_lanes`]: of block i.
    pub(super) scales: __m512,
    /// The lane behind that where a block has two, the same one where it has one: of block i. What bytes are more than quants
    /// counts as an offset.
    pub(super) mins: __m512,
}

/// Lanes for each block of a chunk: two where it has an offset besides its scale, as they lie there.
pub(super) const fn n_lanes<F: Unpack>() -> u32 {
    if matches!(F::KEPT, Kept::Halves) { 2 } else { 1 }
}

/// Those of the `n` blocks from `p` on, up to a chunk.
///
/// # Safety
/// The processor has AVX-512, and the blocks can be read; with groups of one block, 64 bytes from the last one's start on.
#[inline(always)]
pub(super) unsafe fn chunk<F: Unpack>(p: *const u8, n: usize) -> ChunkScales {
    // SAFETY: as the caller promises; groups of eight blocks are whole, with what `Kept` says in them.
    unsafe {
        let scales = match F::KEPT {
            Kept::Half(_) => _mm256_cvtph_ps(_mm256_castsi256_si128(opening::<F>(p, n))),
            Kept::Halves => {
                let both = _mm512_cvtph_ps(opening::<F>(p, n));
                return ChunkScales { scales: both, mins: both };
            }
            Kept::Power => {
                let e = _mm256_cvtepu8_epi32(_mm256_castsi256_si128(opening::<F>(p, n)));
                _mm256_maskz_mov_ps(((1_u32 << n) - 1) as __mmask8, powers(e))
            }
            Kept::Sixes => {
                let scales = _mm256_sub_ps(floats((*p.cast::<iq4_xs::Head>()).scales()), _mm256_set1_ps(32.0));
                _mm256_mul_ps(halves(p)[0], scales)
            }
            Kept::Head | Kept::Shared(_) | Kept::SharedNibbles(_) => unreachable!("see `integers`"),
        };
        // What bytes are more than quants counts as an offset.
        let per_scale = if let Kept::Half(per_scale) = F::KEPT { per_scale } else { 0.0 } - f32::from(F::ZERO);
        let mins = _mm256_mul_ps(scales, _mm256_set1_ps(per_scale));
        ChunkScales { scales: _mm512_castps256_ps512(scales), mins: _mm512_zextps256_ps512(mins) }
    }
}

/// Of a chunk whose blocks share a scale.
pub(super) struct Integers {
    /// What they share.
    pub(super) scale: f32,
    /// What each half block is multiplied with besides, 16 bits each.
    pub(super) factors: __m256i,
    /// Lane i: what the sum of x in block i, or in half block i, is multiplied with.
    pub(super) mins: __m512,
}

/// Those of the eight blocks at `p`.
///
/// # Safety
/// The processor has AVX-512, and the blocks can be read.
#[inline(always)]
pub(super) unsafe fn integers<F: Unpack>(p: *const u8) -> Integers {
    // SAFETY: as the caller promises; what `Kept` says is in the group.
    unsafe {
        match F::KEPT {
            Kept::Head => {
                let [d, dmin] = halves(p);
                let (scales, mins) = (*p.cast::<Head>()).unpack_integers();
                let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), dmin);
                // Each for both halves of a block.
                let scales = _mm_cvtsi64_si128(i64::from_le_bytes(scales));
                Integers {
                    scale: _mm256_cvtss_f32(d),
                    factors: _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(scales, scales)),
                    mins: _mm512_zextps256_ps512(_mm256_mul_ps(minus_dmin, floats(mins))),
                }
            }
            Kept::Shared(at) => {
                let d =
                    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.add(at).cast::<i16>().read_unaligned()))));
                let factors = F::factors(p);
                let zero = _mm512_set1_ps(d * -f32::from(F::ZERO));
                let mins = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)), zero);
                Integers { scale: d, factors: _mm256_cvtepi8_epi16(factors), mins }
            }
            Kept::SharedNibbles(at) => {
                let [d, dmin] = halves(p.add(at));
                let nibbles = _mm_and_si128(_mm_srli_epi16::<4>(_mm_loadu_si128(p.cast())), _mm_set1_epi8(15));
                let minus_dmin =
                    _mm512_sub_ps(_mm512_setzero_ps(), _mm512_broadcastss_ps(_mm256_castps256_ps128(dmin)));
                let mins = _mm512_mul_ps(minus_dmin, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(nibbles)));
                Integers { scale: _mm256_cvtss_f32(d), factors: _mm256_cvtepi8_epi16(F::factors(p)), mins }
            }
            Kept::Half(_) | Kept::Halves | Kept::Power | Kept::Sixes => unreachable!("see `chunk`"),
        }
    }
}

/// The two halves at `p`, each in all lanes.
#[inline(always)]
unsafe fn halves(p: *const u8) -> [__m256; 2] {
    // SAFETY: the callers have AVX-512, and four bytes there.
    unsafe {
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()));
        [_mm256_broadcastss_ps(both), _mm256_broadcastss_ps(_mm_movehdup_ps(both))]
    }
}

/// Eight bytes as numbers.
#[inline(always)]
unsafe fn floats(bytes: [u8; 8]) -> __m256 {
    // SAFETY: the callers have AVX-512.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes)))) }
}

/// [`mxfp4::power`](crate::quant::mxfp4::power) of each lane.
#[inline(always)]
unsafe fn powers(e: __m256i) -> __m256 {
    // SAFETY: the callers have AVX-512.
    unsafe {
        let one = _mm256_set1_epi32(1);
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, one));
        let denormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        _mm256_castsi256_ps(_mm256_mask_mov_epi32(normal, _mm256_cmple_epi32_mask(e, one), denormal))
    }
}

/// What the `n` blocks from `p` on open with: a byte of each, a half of each, or two halves of each. Behind that are zeros, or where
/// the chunk is whole anything.
#[inline(always)]
unsafe fn opening<F: Unpack>(p: *const u8, n: usize) -> __m256i {
    // SAFETY: the callers have AVX-512, and a window begins with a block that is there.
    unsafe {
        let windows = &const { Windows::new(F::GROUP_BYTES, F::KEPT) };
        let window = |w: usize| p.add(w * windows.n_blocks * F::GROUP_BYTES);
        let mut bytes = _mm512_undefined_epi32();
        for w in 0..CHUNK_BLOCKS.div_ceil(windows.n_blocks) {
            bytes = match n {
                // What later windows give is put over it.
                CHUNK_BLOCKS if w == 0 => take(bytes, !0, &windows.bytes[w], window(w)),
                CHUNK_BLOCKS => take(bytes, windows.masks[w], &windows.bytes[w], window(w)),
                _ if w == 0 => take(_mm512_setzero_si512(), windows.masks[w] & windows.there[n], &windows.bytes[w], p),
                _ if w * windows.n_blocks < n => {
                    take(bytes, windows.masks[w] & windows.there[n], &windows.bytes[w], window(w))
                }
                _ => bytes,
            };
        }
        _mm512_castsi512_si256(bytes)
    }
}

/// Where the opening bytes of a chunk's blocks come from: from windows of a register, each with several blocks.
struct Windows {
    /// Blocks in a window.
    n_blocks: usize,
    /// For each window which of its bytes go where.
    bytes: [[u8; 64]; CHUNK_BLOCKS],
    /// Which bytes each window gives.
    masks: [u64; CHUNK_BLOCKS],
    /// Which bytes are those of the first blocks, for each number of these.
    there: [u64; CHUNK_BLOCKS],
}

impl Windows {
    /// For blocks of `stride` bytes.
    const fn new(stride: usize, kept: Kept) -> Self {
        let n_bytes = match kept {
            Kept::Power => 1,
            Kept::Halves => 4,
            // Half, and what is in groups of blocks and not asked for.
            _ => 2,
        };
        let n_blocks = (64 - n_bytes) / stride + 1;
        let mut windows =
            Self { n_blocks, bytes: [[0; 64]; CHUNK_BLOCKS], masks: [0; CHUNK_BLOCKS], there: [0; CHUNK_BLOCKS] };
        let mut block = 0;
        while block < CHUNK_BLOCKS {
            let (window, at) = (block / n_blocks, block % n_blocks * stride);
            let mut i = 0;
            while i < n_bytes {
                let to = n_bytes * block + i;
                windows.bytes[window][to] = (at + i) as u8;
                windows.masks[window] |= 1 << to;
                let mut n = block + 1;
                while n < CHUNK_BLOCKS {
                    windows.there[n] |= 1 << to;
                    n += 1;
                }
                i += 1;
            }
            block += 1;
        }
        windows
    }
}
