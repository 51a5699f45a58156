//! Shapes and numbers that are hard on kernels: the sizes of real models, what lies around powers of two, outliers.

use proptest::prelude::*;
use proptest::sample::select;

/// Widths of real models, all multiples of 32.
pub(crate) const REAL: &[usize] = &[576, 640, 896, 1536, 2048, 4864, 8960];
/// Sizes around a lane, a subgroup, a workgroup.
pub(crate) const EDGES: &[usize] = &[1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];
/// More rows than a dispatch has workgroups in one dimension.
pub(crate) const VOCABULARY: usize = 65_537;

/// A dimension, real or an edge.
pub(crate) fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![select(REAL), select(EDGES)]
}

/// Rows of a step, T.
pub(crate) fn rows() -> impl Strategy<Value = usize> {
    select(&[1, 2, 7, 33, 64, 65][..])
}

/// A shape `[M, K]` of a weight of which no more than a million numbers must be made; K is whole blocks.
pub(crate) fn matrix(block_len: usize) -> impl Strategy<Value = [usize; 2]> {
    (dimension(), dimension()).prop_map(move |(m, k)| {
        let k = k.next_multiple_of(block_len);
        [m.min(1_000_000 / k), k]
    })
}

/// SplitMix64: numbers for tests, the same ones for a seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Mostly within ±1, with zeros, outliers and denormals.
    pub(crate) fn f32(&mut self) -> f32 {
        let unit = (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match self.below(64) {
            0 => 0.0,
            1 => unit * 30.0,
            2 => unit * 1e-40,
            _ => unit,
        }
    }

    pub(crate) fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    /// 0 ..= n - 1 in some order.
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}
