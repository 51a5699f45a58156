//! The 12 bytes in which Q4_K and Q5_K keep the scales and offsets of their eight sub-blocks, 6 bits each.

/// ```text
/// byte   bits 7-6          bits 5-0
/// 0-3    scale 4-7 bit 5-4  scale 0-3
/// 4-7    min 4-7 bit 5-4    min 0-3
///
/// byte   bits 7-4          bits 3-0
/// 8-11   min 4-7 bit 3-0    scale 4-7 bit 3-0
/// ```
pub type Packed = [u8; 12];

/// Scales and offsets of the eight sub-blocks, 0 to 63.
#[inline(always)]
pub fn unpack(packed: &Packed) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        mins[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// The inverse of [`unpack`]; every number is at most 63.
pub(super) fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> Packed {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::{pack, unpack};

    #[test]
    fn all_six_bits_survive() {
        for i in 0..64u8 {
            let scales = std::array::from_fn(|j| (i + 9 * j as u8) % 64);
            let mins = std::array::from_fn(|j| (i * 5 + 13 * j as u8) % 64);
            assert_eq!(unpack(&pack(&scales, &mins)), (scales, mins));
        }
    }
}
