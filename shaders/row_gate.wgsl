//! row_gate — y = sigmoid(gate) · x (+ r), with one gate for a row.
//!
//! x, y    [T, D]  f32
//! gate    [T]     f32
//! grid    (ceil(D / WG), T) workgroups
//! group   an invocation takes one element
//! const   D, WG
//! import  sigmoid, residual
//! tail    elements ≥ D of a row are not read or written
//! exact   f32
//! cpu     src/backend/cpu/ops/row_gate.rs

override D: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = id.x * WG + i;
    if d < D {
        let at = id.y * D + d;
        y[at] = sigmoid(gate[id.y]) * x[at] + residual(at);
    }
}
