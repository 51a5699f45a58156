//! rms_norm — y = x / √(mean(x²) + eps) · w (+ r), over runs of D numbers.
//!
//! x       [T, X_STRIDE]  f32, H runs of D numbers from X_OFFSET on
//! w       [D]  f32
//! y       [T, H, D]  f32
//! grid    (H, T) workgroups, one run each
//! group   invocation i takes elements i, i+WG, …
//! const   D, X_STRIDE, X_OFFSET, EPS;  WG  a power of two
//! import  reduce, residual
//! tail    nothing is assumed of D
//! exact   f32 sum of squares; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/rms_norm.rs

override D: u32;
override X_STRIDE: u32;
override X_OFFSET: u32;
override EPS: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let start = id.y * X_STRIDE + X_OFFSET + id.x * D;
    let to = (id.y * count.x + id.x) * D;

    // 1. sum of squares
    var squares = 0.0;
    for (var d = i; d < D; d += WG) {
        squares += x[start + d] * x[start + d];
    }
    let scale = inverseSqrt(reduce_sum(squares, i) / f32(D) + EPS);

    // 2. scaled
    for (var d = i; d < D; d += WG) {
        y[to + d] = x[start + d] * scale * w[d] + residual(to + d);
    }
}
