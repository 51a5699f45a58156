//! rms — each q and k head is normalized.
//!
//! exports  HEAD_NORM    whether the sum of squares is needed
//!          head_scale   factor on every element of a head, from the sum of its squares
//!          head_weight  factor on element d of a q head or a k head
//! w        [2, HEAD_DIM]  weights of q, weights of k
//! const    EPS

const HEAD_NORM = true;

override EPS: f32;

@group(0) @binding(8) var<storage, read> w: array<f32>;

fn head_scale(squares: f32) -> f32 {
    return inverseSqrt(squares / f32(HEAD_DIM) + EPS);
}

fn head_weight(is_q: bool, d: u32) -> f32 {
    return w[select(HEAD_DIM, 0u, is_q) + d];
}
