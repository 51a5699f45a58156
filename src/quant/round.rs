//! Small steps of the reference quantization, with ggml's rounding.

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

/// The whole part of `x`, within `0..=max`; NaN becomes 0. Callers add the half that makes it round in the same
/// addition as an offset, as ggml does: two additions would round twice.
#[inline(always)]
pub(super) fn truncate(x: f32, max: u8) -> u8 {
    (x as u8).min(max)
}

/// The same as a number, in steps that vectors can take.
#[inline(always)]
pub(super) fn whole(x: f32, max: u8) -> f32 {
    (x.clamp(0.0, f32::from(max)) as i32) as f32
}
