//! matmul — y = x·Wᵀ for several rows, W quantized. plain
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `epilogue`
//! grid    (ceil(M / (4·WG)), ceil(T / 4)) workgroups
//! group   an invocation makes a tile of 4 weight rows × 4 rows of x in registers; the loads of x are uniform
//! const   M, K;  SECTION  which count of `step` is T
//! import  group, quant, epilogue
//! tail    the last row of x stands in for rows ≥ T, whose results are dropped; weight rows ≥ M are not read or written
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override M: u32;
override K: u32;
override WG: u32;
override SECTION: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]
@group(0) @binding(4) var<uniform> step: vec4<u32>; // T of the step, N of the outputs

fn load_x(i: u32) -> Group {
    return Group(x[i], x[i + 1u], x[i + 2u], x[i + 3u], x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]);
}

struct Tile { w0: Group, w1: Group, w2: Group, w3: Group }

fn tile_dot(w: Tile, i: u32) -> vec4<f32> {
    let v = load_x(i);
    return vec4<f32>(group_dot(w.w0, v), group_dot(w.w1, v), group_dot(w.w2, v), group_dot(w.w3, v));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let row = (id.x * WG + i) * 4u;
    let t = id.y * 4u;
    let n = step[SECTION];
    let groups = K / 32u;
    if row >= M {
        return;
    }

    // 1. where the four weight rows and the four rows of x begin
    let w0 = row * groups;
    let w1 = min(row + 1u, M - 1u) * groups;
    let w2 = min(row + 2u, M - 1u) * groups;
    let w3 = min(row + 3u, M - 1u) * groups;
    let pitch = K / 4u;
    let x0 = t * pitch;
    let x1 = min(t + 1u, n - 1u) * pitch;
    let x2 = min(t + 2u, n - 1u) * pitch;
    let x3 = min(t + 3u, n - 1u) * pitch;

    // 2. one group of K at a time
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var g = 0u; g < groups; g++) {
        let w = Tile(quant_group(w0 + g), quant_group(w1 + g), quant_group(w2 + g), quant_group(w3 + g));
        let i = g * 8u;
        s0 += tile_dot(w, x0 + i);
        s1 += tile_dot(w, x1 + i);
        s2 += tile_dot(w, x2 + i);
        s3 += tile_dot(w, x3 + i);
    }

    // 3. rows that exist are written
    epilogue(t, row, s0);
    if t + 1u < n { epilogue(t + 1u, row, s1); }
    if t + 2u < n { epilogue(t + 2u, row, s2); }
    if t + 3u < n { epilogue(t + 3u, row, s3); }
}
