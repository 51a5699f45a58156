//! Random numbers by counting: the n-th number of a seed is a function of (seed, n), with no state to carry along. So a
//! sampler is reproducible from its seed and the number of tokens it drew, and the number for a token can be handed to a GPU
//! before anybody knows the tokens before it.
//!
//! Threefry-2x32-20: 32-bit additions, rotations and exclusive ors, nothing that WGSL lacks.
//! Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3,
//! <https://doi.org/10.1145/2063384.2063405>, section 4.2.

/// Key schedule parity, from Threefish.
const PARITY: u32 = 0x1bd1_1bda;
const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];

/// The block cipher: 20 rounds over two words, a key injection after every fourth.
fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut x = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for round in 0..20 {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        if round % 4 == 3 {
            let injection = round / 4 + 1;
            x[0] = x[0].wrapping_add(keys[injection % 3]);
            x[1] = x[1].wrapping_add(keys[(injection + 1) % 3]).wrapping_add(injection as u32);
        }
    }
    x
}

/// The `n`-th number of `seed`, uniform over all of u32.
pub(crate) fn random(seed: u64, n: u64) -> u32 {
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    threefry2x32(words(seed), words(n))[0]
}

/// The `n`-th number of `seed`, uniform over the multiples of 2⁻²⁴ in 0 ≤ u < 1.
pub(crate) fn uniform(seed: u64, n: u64) -> f32 {
    (random(seed, n) >> 8) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_gives_the_known_answers() {
        // The vectors of the authors' Random123 library.
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn uniform_is_uniform() {
        // 64 bins of 1,000 on average: χ² with 63 degrees of freedom exceeds 120 with a probability of 2e-5.
        let mut bins = [0.0f64; 64];
        for n in 0..64_000 {
            bins[(uniform(42, n) * 64.0) as usize] += 1.0;
        }
        let chi2: f64 = bins.iter().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 120.0, "χ² {chi2}");
    }
}
