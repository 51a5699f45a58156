//! rope — rotates pairs of each head by the row's angles. plain
//!
//! x       [T, H, HEAD_DIM]  f32
//! angles  [T, N_ROT / 2]    cosine and sine, scaled
//! y       [T, H, HEAD_DIM]  f32
//! grid    (H, T) workgroups, one head each
//! group   invocation i takes elements i, i+WG, …
//! const   HEAD_DIM, N_ROT, NEOX, WG
//! import
//! tail    elements ≥ N_ROT pass through; nothing is assumed of HEAD_DIM
//! exact   f32; angles come from the CPU in f64
//! cpu     src/backend/cpu/ops/rope.rs

override HEAD_DIM: u32;
override N_ROT: u32;
override NEOX: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let head = (id.y * count.x + id.x) * HEAD_DIM;
    for (var pair = i; pair < N_ROT / 2u; pair += WG) {
        let a = head + select(2u * pair, pair, NEOX == 1u);
        let b = a + select(1u, N_ROT / 2u, NEOX == 1u);
        let turn = angles[id.y * (N_ROT / 2u) + pair];
        y[a] = x[a] * turn.x - x[b] * turn.y;
        y[b] = x[a] * turn.y + x[b] * turn.x;
    }
    for (var d = N_ROT + i; d < HEAD_DIM; d += WG) {
        y[head + d] = x[head + d];
    }
}
