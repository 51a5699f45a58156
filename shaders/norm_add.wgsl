//! norm_add — y = x / √(mean(x²) + eps) · w + r for one row, whose sums of squares are there already.
//!
//! x       [D]  f32
//! w       [D]  f32
//! y, r    [D]  f32
//! grid    ceil(D / (2·WG)) workgroups
//! group   an invocation takes two elements
//! const   WG  a power of two;  LANES  WG;  EPS
//! import  shape, reduce, scale, fold
//! tail    elements ≥ D are not read or written
//! exact   f32 sum of squares; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/rms_norm.rs

override WG: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> r: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let factor = scale_of(reduce_sum(scale_part(i), i));
    let d = 2u * (id.x * WG + i);
    let there = vec2<bool>(d < shape.m, d + 1u < shape.m);
    var v = vec2<f32>();
    if there.x {
        v.x = x[d] * factor * w[d] + r[d];
        y[d] = v.x;
    }
    if there.y {
        v.y = x[d + 1u] * factor * w[d + 1u] + r[d + 1u];
        y[d + 1u] = v.y;
    }
    fold_take(d, v, there);
    fold_finish(id.x, i);
}
