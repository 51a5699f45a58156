//! matmul — y = x·Wᵀ for several rows, W quantized. plain
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `epilogue`
//! grid    (ceil(M / (2·WG)), ceil(T / 6)) workgroups
//! group   an invocation makes a tile of 2 weight rows × 6 rows of x in registers; x is uniform
//! const   WG
//! import  group, shape, x, quant, epilogue
//! tail    the last row of W and of x stands in for rows that do not exist, whose results are dropped; K is whole groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;

@group(0) @binding(4) var<uniform> step: vec4<u32>; // T of the step, N of the outputs

// Four more numbers of K for two sums. Side by side rather than as two dot products: all sums stay in registers.
fn four(s: vec2<f32>, a: vec4<f32>, b: vec4<f32>, v: vec4<f32>) -> vec2<f32> {
    let t = fma(vec2<f32>(a.y, b.y), vec2<f32>(v.y), fma(vec2<f32>(a.x, b.x), vec2<f32>(v.x), s));
    return fma(vec2<f32>(a.w, b.w), vec2<f32>(v.w), fma(vec2<f32>(a.z, b.z), vec2<f32>(v.z), t));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let row = (id.x * WG + i) * 2u;
    let t = id.y * 6u;
    let n = step[shape.section];
    let groups = shape.groups;

    // 1. where the two weight rows and the six rows of x begin
    let w0 = min(row, shape.m - 1u) * groups;
    let w1 = min(row + 1u, shape.m - 1u) * groups;
    let pitch = groups * 8u;
    let x0 = t * pitch;
    let x1 = min(t + 1u, n - 1u) * pitch;
    let x2 = min(t + 2u, n - 1u) * pitch;
    let x3 = min(t + 3u, n - 1u) * pitch;
    let x4 = min(t + 4u, n - 1u) * pitch;
    let x5 = min(t + 5u, n - 1u) * pitch;

    // 2. one group of K at a time
    var s0 = vec2<f32>();
    var s1 = vec2<f32>();
    var s2 = vec2<f32>();
    var s3 = vec2<f32>();
    var s4 = vec2<f32>();
    var s5 = vec2<f32>();
    for (var g = 0u; g < groups; g++) {
        let a = quant_group(w0 + g);
        let b = quant_group(w1 + g);
        let at = g * 8u;
        let v0 = x_at(x0 + at, i);
        let v1 = x_at(x1 + at, i);
        let v2 = x_at(x2 + at, i);
        let v3 = x_at(x3 + at, i);
        let v4 = x_at(x4 + at, i);
        let v5 = x_at(x5 + at, i);
        s0 = four(s0, a.v0, b.v0, x_0(v0));
        s1 = four(s1, a.v0, b.v0, x_0(v1));
        s2 = four(s2, a.v0, b.v0, x_0(v2));
        s3 = four(s3, a.v0, b.v0, x_0(v3));
        s4 = four(s4, a.v0, b.v0, x_0(v4));
        s5 = four(s5, a.v0, b.v0, x_0(v5));
        s0 = four(s0, a.v1, b.v1, x_1(v0));
        s1 = four(s1, a.v1, b.v1, x_1(v1));
        s2 = four(s2, a.v1, b.v1, x_1(v2));
        s3 = four(s3, a.v1, b.v1, x_1(v3));
        s4 = four(s4, a.v1, b.v1, x_1(v4));
        s5 = four(s5, a.v1, b.v1, x_1(v5));
        s0 = four(s0, a.v2, b.v2, x_2(v0));
        s1 = four(s1, a.v2, b.v2, x_2(v1));
        s2 = four(s2, a.v2, b.v2, x_2(v2));
        s3 = four(s3, a.v2, b.v2, x_2(v3));
        s4 = four(s4, a.v2, b.v2, x_2(v4));
        s5 = four(s5, a.v2, b.v2, x_2(v5));
        s0 = four(s0, a.v3, b.v3, x_3(v0));
        s1 = four(s1, a.v3, b.v3, x_3(v1));
        s2 = four(s2, a.v3, b.v3, x_3(v2));
        s3 = four(s3, a.v3, b.v3, x_3(v3));
        s4 = four(s4, a.v3, b.v3, x_3(v4));
        s5 = four(s5, a.v3, b.v3, x_3(v5));
        s0 = four(s0, a.v4, b.v4, x_4(v0));
        s1 = four(s1, a.v4, b.v4, x_4(v1));
        s2 = four(s2, a.v4, b.v4, x_4(v2));
        s3 = four(s3, a.v4, b.v4, x_4(v3));
        s4 = four(s4, a.v4, b.v4, x_4(v4));
        s5 = four(s5, a.v4, b.v4, x_4(v5));
        s0 = four(s0, a.v5, b.v5, x_5(v0));
        s1 = four(s1, a.v5, b.v5, x_5(v1));
        s2 = four(s2, a.v5, b.v5, x_5(v2));
        s3 = four(s3, a.v5, b.v5, x_5(v3));
        s4 = four(s4, a.v5, b.v5, x_5(v4));
        s5 = four(s5, a.v5, b.v5, x_5(v5));
        s0 = four(s0, a.v6, b.v6, x_6(v0));
        s1 = four(s1, a.v6, b.v6, x_6(v1));
        s2 = four(s2, a.v6, b.v6, x_6(v2));
        s3 = four(s3, a.v6, b.v6, x_6(v3));
        s4 = four(s4, a.v6, b.v6, x_6(v4));
        s5 = four(s5, a.v6, b.v6, x_6(v5));
        s0 = four(s0, a.v7, b.v7, x_7(v0));
        s1 = four(s1, a.v7, b.v7, x_7(v1));
        s2 = four(s2, a.v7, b.v7, x_7(v2));
        s3 = four(s3, a.v7, b.v7, x_7(v3));
        s4 = four(s4, a.v7, b.v7, x_7(v4));
        s5 = four(s5, a.v7, b.v7, x_7(v5));
    }

    // 3. rows that exist are written
    if row >= shape.m {
        return;
    }
    epilogue(t, row, s0);
    if t + 1u < n { epilogue(t + 1u, row, s1); }
    if t + 2u < n { epilogue(t + 2u, row, s2); }
    if t + 3u < n { epilogue(t + 3u, row, s3); }
    if t + 4u < n { epilogue(t + 4u, row, s4); }
    if t + 5u < n { epilogue(t + 5u, row, s5); }
}
