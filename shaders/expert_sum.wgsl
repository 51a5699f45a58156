//! expert_sum — y = the sum of what a row's experts gave, each times its weight (+ r). plain
//!
//! x       [T, USED, D]  f32
//! route   [T, 2·USED]   f32: numbers of experts, then their weights
//! y       [T, D]        f32
//! grid    (ceil(D / WG), T) workgroups
//! group   an invocation takes one element
//! const   D, USED, WG
//! import  residual
//! tail    elements ≥ D of a row are not read or written
//! exact   f32 sums in the order of the CPU
//! cpu     src/backend/cpu/ops/expert_sum.rs

override D: u32;
override USED: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> route: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = id.x * WG + i;
    if d < D {
        var sum = 0.0;
        for (var u = 0u; u < USED; u++) {
            sum += route[(2u * id.y + 1u) * USED + u] * x[(id.y * USED + u) * D + d];
        }
        y[id.y * D + d] = sum + residual(id.y * D + d);
    }
}
