//! none — heads are not normalized.
//!
//! exports  head_scale   factor on every element of a head, from the sum of its squares
//!          head_weight  factor on element d of a q head or a k head

fn head_scale(squares: f32, i: u32) -> f32 {
    return 1.0;
}

fn head_weight(is_q: bool, d: u32) -> f32 {
    return 1.0;
}
