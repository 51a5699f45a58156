//! The most probable token.

/// The index of the largest number; of equal ones the lowest. NaN is never the largest.
pub(crate) fn argmax(x: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in x.iter().enumerate() {
        if *value > x[best] || x[best].is_nan() {
            best = i;
        }
    }
    best as u32
}
