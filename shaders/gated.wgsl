//! gated — y = act(gate) · up. plain
//!
//! gate, up, y  [T, F]  f32
//! grid    (ceil(F / WG), T) workgroups
//! group   an invocation takes one element
//! const   D  the width F;  WG
//! import  act
//! tail    elements ≥ D of a row are not read or written
//! exact   f32
//! cpu     src/backend/cpu/ops/gated.rs

override D: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = id.x * WG + i;
    if d < D {
        let at = id.y * D + d;
        y[at] = glu(gate[at], up[at]);
    }
}
