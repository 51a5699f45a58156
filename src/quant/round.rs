//! Small steps of quantization.

/// The number of the largest magnitude, with its sign; of equal ones the positive one.
#[inline(always)]
pub(super) fn furthest_from_zero(src: &[f32]) -> f32 {
    let (least, most) = min_max(src);
    // Without any number, infinities the wrong way round.
    let (least, most) = (least.min(0.0), most.max(0.0));
    if most >= -least { most } else { least }
}

/// The smallest and the largest number of whole eights: eight side by side, as vectors have them.
#[inline(always)]
pub(super) fn min_max(src: &[f32]) -> (f32, f32) {
    let (eights, rest) = src.as_chunks::<8>();
    debug_assert!(rest.is_empty(), "{} numbers", src.len());
    let (mut least, mut most) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for eight in eights {
        for i in 0..8 {
            least[i] = if eight[i] < least[i] { eight[i] } else { least[i] };
            most[i] = if eight[i] > most[i] { eight[i] } else { most[i] };
        }
    }
    (across(least, |a, b| if b < a { b } else { a }), across(most, |a, b| if b > a { b } else { a }))
}

/// Eight numbers made one, in one order: the same bits on every machine.
#[inline(always)]
pub(super) fn across(lanes: [f32; 8], join: impl Fn(f32, f32) -> f32) -> f32 {
    // What goes on within a vector is kept from what made it: the compiler would rather have its pairs in vectors.
    let v = std::hint::black_box(lanes);
    join(join(join(v[0], v[4]), join(v[2], v[6])), join(join(v[1], v[5]), join(v[3], v[7])))
}

/// `1 / d`, and 0 for 0: a block of zeros stays one.
#[inline(always)]
pub(super) fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// 1.5 · 2²³: next to it there is no room for fractions.
const BIG: f32 = 12_582_912.0;

/// The whole number nearest to `x` within `least..=most`, in a few steps that vectors can take; `least` for NaN.
#[inline(always)]
pub(super) fn nearest_within(x: f32, least: f32, most: f32) -> f32 {
    let x = (x + BIG) - BIG;
    let x = if x > least { x } else { least };
    if x < most { x } else { most }
}

/// A whole number of `0..=255` as a byte: a sum and a cut, where a conversion would look for what does not fit.
#[inline(always)]
pub(super) fn byte(whole: f32) -> u8 {
    (whole + BIG).to_bits() as u8
}

/// `x` rounded as C's `roundf` does, halves away from zero; for magnitudes that bytes hold.
#[inline(always)]
pub(super) fn half_away(x: f32) -> i8 {
    /// The largest number below a half: a half would take its predecessor up to one.
    const ALMOST_HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    (x + ALMOST_HALF.copysign(x)) as i32 as i8
}

#[cfg(test)]
mod tests {
    use super::{byte, furthest_from_zero, half_away};

    #[test]
    fn the_furthest_is_found_wherever_it_is() {
        for i in 0..16 {
            for end in [-3.0, 3.0] {
                let mut numbers = [f32::NAN, -1.0, 0.0, 2.0].repeat(4);
                numbers[i] = end;
                assert_eq!(furthest_from_zero(&numbers), end, "{numbers:?}");
            }
        }
        assert_eq!(furthest_from_zero(&[f32::NAN; 8]), 0.0);
        assert_eq!(furthest_from_zero(&[-0.5; 8]), -0.5);
    }

    #[test]
    fn bytes_are_what_conversions_give() {
        for whole in 0..=u8::MAX {
            assert_eq!(byte(f32::from(whole)), whole);
        }
        for quarter in -508..=508 {
            let x = quarter as f32 / 4.0;
            for x in [x.next_down(), x, x.next_up()] {
                assert_eq!(half_away(x), x.round() as i8, "{x:e}");
            }
        }
    }
}
