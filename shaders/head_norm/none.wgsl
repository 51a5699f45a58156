//! none — heads are not normalized.
//!
//! exports  HEAD_NORM    whether the sum of squares is needed
//!          head_scale   factor on every element of a head, from the sum of its squares
//!          head_weight  factor on element d of a q head or a k head

const HEAD_NORM = false;

fn head_scale(squares: f32) -> f32 {
    return 1.0;
}

fn head_weight(is_q: bool, d: u32) -> f32 {
    return 1.0;
}
