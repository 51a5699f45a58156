//! Small steps of quantization.

/// The number of the largest magnitude, with its sign; of equal ones the first.
#[inline(always)]
pub(super) fn furthest_from_zero(src: &[f32]) -> f32 {
    src.iter().fold(0.0, |found: f32, &w| if w.abs() > found.abs() { w } else { found })
}

/// The smallest and the largest number.
#[inline(always)]
pub(super) fn min_max(src: &[f32]) -> (f32, f32) {
    src.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &w| (min.min(w), max.max(w)))
}

/// `1 / d`, and 0 for 0: a block of zeros stays one.
#[inline(always)]
pub(super) fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The whole number nearest to `x` within `least..=most`, in a few steps that vectors can take; `least` for NaN.
#[inline(always)]
pub(super) fn nearest_within(x: f32, least: f32, most: f32) -> f32 {
    /// 1.5 · 2²³: next to it there is no room for fractions.
    const BIG: f32 = 12_582_912.0;
    let x = (x + BIG) - BIG;
    let x = if x > least { x } else { least };
    if x < most { x } else { most }
}
