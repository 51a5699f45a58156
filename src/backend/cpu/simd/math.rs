//! Functions of all lanes at once.

use super::vector::Vector;

/// eˣ, within 2 ulp; from about -87 down it is 10⁻³⁸ or less, and from 88 up as at 88.
///
/// 2ⁿ · eʳ with an integer n and |r| ≤ ln 2 / 2. Source: Cephes' `expf` (Moshier), <https://www.netlib.org/cephes/>.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        let x = x.max(V::splat(-87.3)).min(V::splat(88.0));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, of which the first has few enough digits for n times it to be exact.
        let r = x.mul_add(n, V::splat(-0.693_359_4)).mul_add(n, V::splat(2.121_944_4e-4));
        let mut p = V::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = V::splat(c).mul_add(p, r);
        }
        let r_and_1 = r.add(V::splat(1.0));
        r_and_1.mul_add(p, r.mul(r)).mul(n.exp2_of_integer())
    }
}

/// 1 / (1 + e⁻ˣ)
///
/// # Safety
/// As for [`exp`].
#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        let one = V::splat(1.0);
        one.div(one.add(exp(V::splat(0.0).sub(x))))
    }
}

/// tanh x, within some ulp: an odd polynomial near 0, from the sigmoid elsewhere. Source: Cephes' `tanhf`.
///
/// # Safety
/// As for [`exp`].
#[inline(always)]
pub(super) unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        let far = V::splat(2.0).mul(sigmoid(x.add(x))).sub(V::splat(1.0));
        let z = x.mul(x);
        let mut p = V::splat(-5.704_988_7e-3);
        for c in [2.063_909e-2, -5.373_971_4e-2, 1.333_144_2e-1, -3.333_328e-1] {
            p = V::splat(c).mul_add(p, z);
        }
        let near = x.mul_add(x, z.mul(p));
        x.max(V::splat(0.0).sub(x)).if_less(V::splat(0.625), near, far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::simd::vector::Kernel;

    struct Each<'a>(&'a [f32], &'a mut [[f32; 3]]);

    impl Kernel for Each<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for (x, y) in self.0.chunks(V::LEN).zip(self.1.chunks_mut(V::LEN)) {
                let mut lanes = [[0.0; super::super::vector::MAX_LANES]; 3];
                // SAFETY: as many numbers are there, and lanes for all.
                unsafe {
                    let x = V::load_first(x.as_ptr(), x.len());
                    for (lanes, result) in lanes.iter_mut().zip([exp(x), sigmoid(x), tanh(x)]) {
                        result.store(lanes.as_mut_ptr());
                    }
                }
                for (i, y) in y.iter_mut().enumerate() {
                    *y = [0, 1, 2].map(|f| lanes[f][i]);
                }
            }
        }
    }

    #[test]
    fn functions_are_near_their_values_over_the_whole_range() {
        let x: Vec<f32> =
            (-9_000..=8_800).map(|i| i as f32 / 100.0 + 0.001).chain([0.0, -0.0, 1e-30, -87.25]).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut found = vec![[0.0; 3]; x.len()];
            isa.run(Each(&x, &mut found));
            for (&x, found) in x.iter().zip(found) {
                let [exp, sigmoid, tanh] = found.map(f64::from);
                let x = f64::from(x);
                let expected = x.max(f64::from(-87.3f32)).min(88.0).exp();
                assert!((exp / expected - 1.0).abs() <= 2.4e-7, "{isa}: exp({x}) = {exp:e}, not {expected:e}");
                assert!((sigmoid - 1.0 / (1.0 + (-x).exp())).abs() <= 1.8e-7, "{isa}: sigmoid({x}) = {sigmoid}");
                assert!((tanh / x.tanh() - 1.0).abs() <= 6e-7 || tanh == x, "{isa}: tanh({x}) = {tanh}");
            }
            let mut edges = [[0.0; 3]; 3];
            isa.run(Each(&[f32::NEG_INFINITY, f32::INFINITY, 0.0], &mut edges));
            assert!(
                (0.0..2e-38).contains(&edges[0][0]) && edges[1][0] > 1e38 && edges[2][0] == 1.0,
                "{isa}: {edges:?}"
            );
            assert_eq!((edges[0][2], edges[1][2], edges[2][2]), (-1.0, 1.0, 0.0), "{isa}");
        }
    }
}
