//! The one sum of products that all ops use, in an order that is fast without being special.
//!
//! [`LANES`] independent sums, element k going to sum k mod [`LANES`], are added up pairwise at the end. That is what
//! vector registers do by themselves, so the compiler needs no leave to reorder anything; and the shorter sums are more
//! exact than one long one. Several pairs of rows are taken through the loop at once, which saves loads and changes no
//! bit of any result.

/// Independent sums: two AVX registers, four SSE or NEON registers.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// `a[i] · b[j]` for each i and j.
#[inline(always)]
pub(super) fn dots<const A: usize, const B: usize>(a: [&[f32]; A], b: [&[f32]; B]) -> [[f32; B]; A] {
    let len = a[0].len();
    assert!(a.iter().chain(&b).all(|row| row.len() == len), "rows of different lengths");
    let mut sums = [[[0.0; LANES]; B]; A];
    for k in (0..len - len % LANES).step_by(LANES) {
        sums = multiply_add(sums, a.map(|row| lanes(row, k)), b.map(|row| lanes(row, k)));
    }
    if !len.is_multiple_of(LANES) {
        sums = multiply_add(sums, a.map(tail), b.map(tail));
    }
    // Not `map`: it is not inlined here, and costs as much as the sums.
    let mut result = [[0.0; B]; A];
    for i in 0..A {
        for j in 0..B {
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
fn lanes(row: &[f32], k: usize) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&row[k..k + LANES]);
    lanes
}

/// What is left of a row after whole chunks, filled up with zeros.
#[inline(always)]
fn tail(row: &[f32]) -> Lanes {
    let mut tail = [0.0; LANES];
    let rest = row.as_chunks::<LANES>().1;
    tail[..rest.len()].copy_from_slice(rest);
    tail
}

// By value, so that the sums are registers and never have an address.
#[inline(always)]
fn multiply_add<const A: usize, const B: usize>(
    mut sums: [[Lanes; B]; A],
    a: [Lanes; A],
    b: [Lanes; B],
) -> [[Lanes; B]; A] {
    for i in 0..A {
        for j in 0..B {
            for l in 0..LANES {
                sums[i][j][l] += a[i][l] * b[j][l];
            }
        }
    }
    sums
}

#[inline(always)]
fn add_pairwise(mut sums: Lanes) -> f32 {
    for n in [8, 4, 2, 1] {
        for l in 0..n {
            sums[l] += sums[l + n];
        }
    }
    sums[0]
}

const _: () = assert!(LANES == 16, "add_pairwise halves 16 sums");

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
