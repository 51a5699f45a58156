//! scale — y = factor · x. plain
//!
//! x, y    [T, D]  f32
//! grid    (ceil(D / WG), T) workgroups
//! group   an invocation takes one element
//! const   D, FACTOR, WG
//! import
//! tail    elements ≥ D of a row are not read or written
//! exact   the same bits as the CPU
//! cpu     src/backend/cpu/ops/scale.rs

override D: u32;
override FACTOR: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = id.x * WG + i;
    if d < D {
        let at = id.y * D + d;
        y[at] = FACTOR * x[at];
    }
}
