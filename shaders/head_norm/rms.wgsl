//! rms — each q and k head is normalized.
//!
//! exports  head_scale   factor on every element of a head, from the invocation's part of the sum of squares
//!          head_weight  factor on element d of a q head or a k head
//! w        [2, HEAD_DIM]  weights of q, weights of k
//! const    EPS
//! import   reduce
//! note     holds barriers: to be called in uniform control flow

override EPS: f32;

@group(0) @binding(8) var<storage, read> w: array<f32>;

fn head_scale(squares: f32, i: u32) -> f32 {
    return inverseSqrt(reduce_sum(squares, i) / f32(HEAD_DIM) + EPS);
}

fn head_weight(is_q: bool, d: u32) -> f32 {
    return w[select(HEAD_DIM, 0u, is_q) + d];
}
