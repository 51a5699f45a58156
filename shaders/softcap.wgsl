//! softcap — y = cap · tanh(x / cap).
//!
//! x, y    [N, D]  f32
//! grid    (ceil(D / WG), N) workgroups
//! group   an invocation takes one element
//! const   D, CAP, WG
//! import
//! tail    elements ≥ D of a row are not read or written
//! exact   f32; the argument is bounded: some GPUs compute tanh by exponentials, which overflow
//! cpu     src/backend/cpu/ops/softcap.rs

override D: u32;
override CAP: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let d = id.x * WG + i;
    if d < D {
        let at = id.y * D + d;
        y[at] = CAP * tanh(clamp(x[at] / CAP, -15.0, 15.0));
    }
}
