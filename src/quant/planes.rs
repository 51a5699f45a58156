//! Packing for the GPU: blocks are split into planes, and their bits put where a group of 32 weights needs them.
//!
//! In a file, fields of all widths follow one another, and in the K formats the bits of a group are spread over bytes
//! that it shares with others. In planes, a group of any format has its own words, loaded as vectors of 16 bytes, and
//! the bits are in one order whatever the format, so that `shaders/lib/group.wgsl` takes them apart for all:
//!
//! ```text
//! nibbles    16 bytes  byte 4k + b, low nibble: weight 8k + b; high nibble: weight 8k + 4 + b
//! fifths      4 bytes  byte b, bit k: weight 4k + b
//! two_bits    8 bytes  byte b, bits 2k and 2k + 1: weight 4k + b; byte 4 + b: weight 16 + 4k + b
//! ```
//!
//! Four consecutive weights are thus the same bits of the four bytes of a word: one mask and one shift for four.

use bytemuck::Pod;

/// [`super::Format::pack`] of a format whose blocks are copied as they are, into one plane.
pub(super) fn whole(src: &[u8], planes: &mut [&mut [u8]]) {
    let [plane] = split(planes);
    plane.copy_from_slice(src);
}

/// The planes of a format that has `N`.
///
/// # Panics
/// If there are not as many.
pub(super) fn split<'a, 'b, const N: usize>(planes: &'a mut [&'b mut [u8]]) -> &'a mut [&'b mut [u8]; N] {
    let found = planes.len();
    planes.try_into().unwrap_or_else(|_| panic!("{found} planes for a format with {N}"))
}

/// A plane as an array with one entry a block, to write to.
///
/// # Panics
/// If `plane` does not hold whole entries.
pub(super) fn entries<T: Pod>(plane: &mut [u8]) -> &mut [T] {
    bytemuck::cast_slice_mut(plane)
}

/// Nibbles of a group, out of 16 bytes that have weights 0 to 15 in low nibbles and the others in high ones.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8; 16]) -> [u8; 16] {
    let (low, high) = (bytes.map(|b| b & 15), bytes.map(|b| b >> 4));
    in_steps(&low, &high)
}

/// Nibbles of two groups that share 32 bytes in a file, one the low halves and the other the high ones.
#[inline(always)]
pub(super) fn nibble_pairs(bytes: &[u8; 32]) -> [[u8; 16]; 2] {
    let (first, second) = bytes.split_at(16);
    let half = |bytes: &[u8], shift: u32| std::array::from_fn(|i| bytes[i] >> shift & 15);
    let group = |shift| in_steps(&half(first, shift), &half(second, shift));
    [group(0), group(4)]
}

/// Weights 0 to 15 and 16 to 31 of a group, each below 16, as kernels take them: eight at a time, four in low nibbles.
#[inline(always)]
fn in_steps(first: &[u8; 16], second: &[u8; 16]) -> [u8; 16] {
    let mut steps = [0; 16];
    for (half, weights) in [first, second].into_iter().enumerate() {
        for b in 0..4 {
            steps[8 * half + b] = weights[b] | weights[4 + b] << 4;
            steps[8 * half + 4 + b] = weights[8 + b] | weights[12 + b] << 4;
        }
    }
    steps
}

/// Fifth bits of a group, out of a word whose bit i is that of weight i.
#[inline(always)]
pub(super) fn fifths(word: [u8; 4]) -> [u8; 4] {
    let word = u32::from_le_bytes(word);
    // The product has copies of the nibble k at bits 0, 7, 14 and 21: its bit b at bit 8b.
    let spread = |k: u32| (((word >> (4 * k) & 15) * 0x0020_4081) & 0x0101_0101) << k;
    (0..8).fold(0, |bits, k| bits | spread(k)).to_le_bytes()
}

/// Fifth bits of a group, out of 32 bytes that have them at `bit`.
#[inline(always)]
pub(super) fn fifths_at(bit: usize, bytes: &[u8; 32]) -> [u8; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    let mut bits = 0;
    for (k, word) in words.iter().enumerate() {
        bits |= (u32::from_le_bytes(*word) >> bit & 0x0101_0101) << k;
    }
    bits.to_le_bytes()
}

/// Fifth and sixth bits of a group, out of 32 bytes that have them at `bit` and the next one.
#[inline(always)]
pub(super) fn two_bits_at(bit: usize, bytes: &[u8; 32]) -> [[u8; 4]; 2] {
    let (words, _) = bytes.as_chunks::<4>();
    let mut bits = [0; 2];
    for (k, word) in words.iter().enumerate() {
        bits[k / 4] |= (u32::from_le_bytes(*word) >> bit & 0x0303_0303) << (2 * (k % 4));
    }
    bits.map(u32::to_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit `bit` of weight `i` is 1 where this is odd: no two weights of a word alike.
    fn pattern(i: usize, bit: usize) -> u8 {
        ((i * 37 + bit * 11 + i * i / 3) % 5 % 2) as u8
    }

    #[test]
    fn nibbles_are_in_steps_of_eight() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i as u8).wrapping_mul(73) ^ 0x5a);
        let (one, _) = bytes.as_chunks::<16>();
        // Where weight i of a group is.
        let at = |group: &[u8; 16], i: usize| group[i / 8 * 4 + i % 4] >> (4 * (i / 4 % 2)) & 15;
        let groups = nibble_pairs(&bytes);
        for i in 0..32 {
            assert_eq!([at(&groups[0], i), at(&groups[1], i)], [bytes[i] & 15, bytes[i] >> 4], "weight {i}");
            assert_eq!(at(&nibbles(&one[0]), i), one[0][i % 16] >> (4 * (i / 16)) & 15, "weight {i}");
        }
    }

    #[test]
    fn fifths_are_by_byte_and_quad() {
        let word = (0..32).fold(0u32, |word, i| word | u32::from(pattern(i, 0)) << i);
        let found = fifths(word.to_le_bytes());
        let bytes: [u8; 32] = std::array::from_fn(|i| pattern(i, 0) << 5 | !(1 << 5) & i as u8);
        assert_eq!(fifths_at(5, &bytes), found);
        for i in 0..32 {
            assert_eq!(found[i % 4] >> (i / 4) & 1, pattern(i, 0), "weight {i}");
        }
    }

    #[test]
    fn two_bits_are_by_byte_and_quad() {
        let two = |i| pattern(i, 1) << 1 | pattern(i, 0);
        let bytes: [u8; 32] = std::array::from_fn(|i| two(i) << 4 | 0b1100_1111 & (i * 9) as u8);
        let found = two_bits_at(4, &bytes);
        for i in 0..32 {
            assert_eq!(found[i / 16][i % 4] >> (2 * (i / 4 % 4)) & 3, two(i), "weight {i}");
        }
    }
}
