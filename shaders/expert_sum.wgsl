//! expert_sum — y = the sum of what a row's experts gave, each times its weight (+ r).
//!
//! x       [T, USED, D]  f32
//! route   [T, 2·USED]   f32: numbers of experts, then their weights
//! y       [T, D]        f32
//! grid    (ceil(D / (2·WG)), T) workgroups
//! group   an invocation takes two elements
//! const   D, USED;  WG  a power of two
//! import  residual, fold
//! tail    elements ≥ D of a row are not read or written
//! exact   f32 sums in the order of the CPU
//! cpu     src/backend/cpu/ops/expert_sum.rs

override D: u32;
override USED: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> route: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn total(t: u32, d: u32) -> f32 {
    var sum = 0.0;
    for (var u = 0u; u < USED; u++) {
        sum += route[(2u * t + 1u) * USED + u] * x[(t * USED + u) * D + d];
    }
    return sum + residual(t * D + d);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = 2u * (id.x * WG + i);
    let there = vec2<bool>(d < D, d + 1u < D);
    var v = vec2<f32>();
    if there.x {
        v.x = total(id.y, d);
        y[id.y * D + d] = v.x;
    }
    if there.y {
        v.y = total(id.y, d + 1u);
        y[id.y * D + d + 1u] = v.y;
    }
    fold_take(d, v, there);
    fold_finish(id.x, i);
}
