//! The one sum of products that all ops use, in an order that is fast without being special.
//!
//! [`LANES`] independent sums, element k going to sum k mod [`LANES`], are added up pairwise at the end. That is what
//! vector registers do by themselves, so the compiler needs no leave to reorder anything; and the shorter sums are more
//! exact than one long one. Several pairs of rows are taken through the loop at once, which saves loads and changes no
//! bit of any result.

/// Independent sums: two AVX registers, four SSE or NEON registers.
pub(super) const LANES: usize = 16;

/// `a[i] · b[j]` for each i and j.
#[inline(always)]
pub(super) fn dots<const A: usize, const B: usize>(a: [&[f32]; A], b: [&[f32]; B]) -> [[f32; B]; A] {
    let len = a[0].len();
    assert!(a.iter().chain(&b).all(|row| row.len() == len), "rows of different lengths");
    let whole = len - len % LANES;
    let mut sums = [[[0.0f32; LANES]; B]; A];
    for k in (0..whole).step_by(LANES) {
        let a = a.map(|row| lanes(row, k));
        let b = b.map(|row| lanes(row, k));
        for i in 0..A {
            for j in 0..B {
                for l in 0..LANES {
                    sums[i][j][l] += a[i][l] * b[j][l];
                }
            }
        }
    }
    let mut result = [[0.0; B]; A];
    for i in 0..A {
        for j in 0..B {
            for k in whole..len {
                sums[i][j][k - whole] += a[i][k] * b[j][k];
            }
            result[i][j] = add_pairwise(sums[i][j]);
        }
    }
    result
}

/// a · b
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dots([a], [b])[0][0]
}

#[inline(always)]
fn lanes(row: &[f32], k: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&row[k..k + LANES]);
    lanes
}

#[inline(always)]
fn add_pairwise(mut sums: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for l in 0..n {
            sums[l] += sums[l + n];
        }
        n /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::multiversion::multiversion;

    multiversion! {
        fn dot_on_this_machine(a: &[f32], b: &[f32]) -> f32 {
            dot(a, b)
        }
    }

    #[test]
    fn a_product_has_the_same_bits_alone_and_among_others_with_and_without_wide_vectors() {
        let numbers = |seed: usize| -> Vec<f32> {
            (0..300).map(|i| ((i * 7_919 + seed * 104_729) % 1_009) as f32 / 333.3 - 1.5).collect()
        };
        let (a, b, c, d) = (numbers(1), numbers(2), numbers(3), numbers(4));
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 300] {
            let (a, b, c, d) = (&a[..len], &b[..len], &c[..len], &d[..len]);
            let expected = [[dot(a, c), dot(a, d)], [dot(b, c), dot(b, d)]].map(|row| row.map(f32::to_bits));
            assert_eq!(dots([a, b], [c, d]).map(|row| row.map(f32::to_bits)), expected, "{len} numbers");
            assert_eq!(dot_on_this_machine(a, c).to_bits(), expected[0][0], "{len} numbers");
            let exact: f64 = a.iter().zip(c).map(|(&a, &c)| f64::from(a) * f64::from(c)).sum();
            assert!((f64::from(dot(a, c)) - exact).abs() <= 1e-4, "{len} numbers");
        }
    }
}
