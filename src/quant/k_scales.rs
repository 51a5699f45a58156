//! The 16 bytes in which a super-block of Q4_K or Q5_K keeps the scales and offsets of its eight sub-blocks.

use bytemuck::{Pod, Zeroable};

use super::block::Half;

/// ```text
/// byte 0     2        4
///      d f16 dmin f16 packed, 6 bits for each scale and min:
///
/// byte   bits 7-6              bits 5-0
/// 4-7    bits 5-4 of scale 4-7  scale 0-3
/// 8-11   bits 5-4 of min 4-7    min 0-3
///
/// byte   bits 7-4              bits 3-0
/// 12-15  bits 3-0 of min 4-7    bits 3-0 of scale 4-7
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the offsets.
    pub dmin: Half,
    /// Scales and offsets of the sub-blocks.
    pub packed: [u8; 12],
}

const _: () = assert!(size_of::<Head>() == 16 && align_of::<Head>() == 1);

impl Head {
    /// Every number of `scales` and `mins` is at most 63.
    pub(super) fn new(d: Half, scales: &[u8; 8], dmin: Half, mins: &[u8; 8]) -> Self {
        let mut packed = [0; 12];
        for i in 0..4 {
            packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
            packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
            packed[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
        }
        Self { d, dmin, packed }
    }

    /// `d · scale` and `dmin · min` of the eight sub-blocks.
    #[inline(always)]
    pub fn unpack(&self) -> ([f32; 8], [f32; 8]) {
        let (scales, mins) = self.unpack_integers();
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        (scales.map(|scale| d * f32::from(scale)), mins.map(|min| dmin * f32::from(min)))
    }

    /// Scales and offsets of the eight sub-blocks, 0 to 63, in units of `d` and `dmin`.
    #[inline(always)]
    pub fn unpack_integers(&self) -> ([u8; 8], [u8; 8]) {
        // Four of them in a word, at the same bits of its bytes.
        let [low, mins, high] = bytemuck::cast::<_, [[u8; 4]; 3]>(self.packed).map(u32::from_le_bytes);
        let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
        let scales_8 = [low & 0x3f3f_3f3f, high & 0x0f0f_0f0f | upper(low)];
        let mins_8 = [mins & 0x3f3f_3f3f, high >> 4 & 0x0f0f_0f0f | upper(mins)];
        [scales_8, mins_8].map(|words| bytemuck::cast(words.map(u32::to_le_bytes))).into()
    }

    /// For the GPU: scale and offset of a sub-block at the same place of the two halves of a word, so that a mask takes both.
    ///
    /// ```text
    /// byte 0     2        4                                   8                    12
    ///      d f16 dmin f16 bits 4i … 4i+3 (i < 4): bits 0-3 of  the same for i + 4   bits 2i, 2i+1: bits 4, 5 of scale i;
    ///                     scale i; 16 bits above them of min i                     16 bits above them of min i
    /// ```
    pub(super) fn pack(&self) -> Head {
        let (scales, mins) = self.unpack_integers();
        Head { packed: pack_pairs(&scales, &mins), ..*self }
    }
}

/// Eight pairs of six-bit numbers, as [`Head::pack`] has scales and offsets.
pub(super) fn pack_pairs(first: &[u8; 8], second: &[u8; 8]) -> [u8; 12] {
    let mut words = [0_u32; 3];
    for (i, (&first, &second)) in first.iter().zip(second).enumerate() {
        let both = u32::from(first) | u32::from(second) << 16;
        words[i / 4] |= (both & 0x000f_000f) << (4 * (i % 4));
        words[2] |= (both >> 4 & 0x0003_0003) << (2 * i);
    }
    bytemuck::cast(words.map(u32::to_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::{Half, Head};

    #[test]
    fn all_six_bits_survive() {
        let one = Half::from_f32(1.0);
        for i in 0..64 {
            let scales = std::array::from_fn(|j| ((i + 9 * j) % 64) as u8);
            let mins = std::array::from_fn(|j| ((5 * i + 13 * j) % 64) as u8);
            assert_eq!(Head::new(one, &scales, one, &mins).unpack_integers(), (scales, mins));
        }
    }

    #[test]
    fn packed_bits_are_where_the_drawing_has_them() {
        let one = Half::from_f32(1.0);
        let (scales, mins) = ([1, 63, 17, 40, 5, 22, 32, 15], [62, 0, 33, 9, 48, 27, 16, 50]);
        let packed = Head::new(one, &scales, one, &mins).pack().packed;
        let word = |i: usize| u32::from_le_bytes(packed[4 * i..][..4].try_into().expect("four bytes"));
        for i in 0..8 {
            let both = word(i / 4) >> (4 * (i % 4)) & 0x000f_000f | (word(2) >> (2 * i) & 0x0003_0003) << 4;
            assert_eq!([both & 0xffff, both >> 16], [u32::from(scales[i]), u32::from(mins[i])], "sub-block {i}");
        }
    }
}
