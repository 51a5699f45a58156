//! matvec_two — y = W·x and y2 = W2·x for one row, the matrices quantized in two formats.
//!
//! W       [M, K]   packed blocks of `quant`, row-major
//! W2      [M2, K]  packed blocks of `quant2`, row-major
//! x       [K]      f32
//! y, y2   [M], [M2]  f32
//! grid    ceil(M / rows) + ceil(M2 / rows) workgroups, where rows is 4·WG/LANES
//! group   WG invocations are WG/LANES teams of LANES; a team shares 4 rows, its lane i takes groups i, i+LANES, …
//! turn    4·32 weights, 32·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG
//! import  group, shape, x, quant, quant2, lanes, scale, bias
//! tail    W and W2 have zeros up to a multiple of 4 rows; rows ≥ M or M2 are not written; K is a whole number of groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override LANES: u32;

@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> y2: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let rows = 4u * (WG / LANES);
    let n_first = (shape.m + rows - 1u) / rows;
    let is_second = id.x >= n_first;
    let m = select(shape.m, shape.m2, is_second);
    let row = (id.x - select(0u, n_first, is_second)) * rows + i / LANES * 4u;
    let lane = i % LANES;
    let groups = shape.groups;

    // 1. partial dot products of four rows, eight weights of each at a time; teams without rows do as the first one does
    let first = select(0u, row, row < m) * groups;
    var sum = vec4<f32>();
    if is_second {
        for (var g = lane; g < groups; g += LANES) {
            let v = x_at(g * 8u, i);
            let low0 = x_0(v);
            let high0 = x_1(v);
            let at = first + g;
            let q0 = quant2_read(at);
            let q1 = quant2_read(at + groups);
            let q2 = quant2_read(at + 2u * groups);
            let q3 = quant2_read(at + 3u * groups);
            var s0 = vec2<f32>();
            var s1 = vec2<f32>();
            var s2 = vec2<f32>();
            var s3 = vec2<f32>();
            s0 = quant2_step(q0, 0u, low0, high0, s0);
            s1 = quant2_step(q1, 0u, low0, high0, s1);
            s2 = quant2_step(q2, 0u, low0, high0, s2);
            s3 = quant2_step(q3, 0u, low0, high0, s3);
            var x_sums = group_sums(low0, high0);
            let low1 = x_2(v);
            let high1 = x_3(v);
            s0 = quant2_step(q0, 1u, low1, high1, s0);
            s1 = quant2_step(q1, 1u, low1, high1, s1);
            s2 = quant2_step(q2, 1u, low1, high1, s2);
            s3 = quant2_step(q3, 1u, low1, high1, s3);
            x_sums += group_sums(low1, high1);
            let x_half = x_sums.x + x_sums.y;
            sum.x = quant2_half(sum.x, at, g, s0, x_half);
            sum.y = quant2_half(sum.y, at + groups, g, s1, x_half);
            sum.z = quant2_half(sum.z, at + 2u * groups, g, s2, x_half);
            sum.w = quant2_half(sum.w, at + 3u * groups, g, s3, x_half);
            s0 = quant2_rest(s0);
            s1 = quant2_rest(s1);
            s2 = quant2_rest(s2);
            s3 = quant2_rest(s3);
            let low2 = x_4(v);
            let high2 = x_5(v);
            s0 = quant2_step(q0, 2u, low2, high2, s0);
            s1 = quant2_step(q1, 2u, low2, high2, s1);
            s2 = quant2_step(q2, 2u, low2, high2, s2);
            s3 = quant2_step(q3, 2u, low2, high2, s3);
            x_sums += group_sums(low2, high2);
            let low3 = x_6(v);
            let high3 = x_7(v);
            s0 = quant2_step(q0, 3u, low3, high3, s0);
            s1 = quant2_step(q1, 3u, low3, high3, s1);
            s2 = quant2_step(q2, 3u, low3, high3, s2);
            s3 = quant2_step(q3, 3u, low3, high3, s3);
            x_sums += group_sums(low3, high3);
            sum.x = quant2_add(sum.x, at, g, s0, x_sums, x_half);
            sum.y = quant2_add(sum.y, at + groups, g, s1, x_sums, x_half);
            sum.z = quant2_add(sum.z, at + 2u * groups, g, s2, x_sums, x_half);
            sum.w = quant2_add(sum.w, at + 3u * groups, g, s3, x_sums, x_half);
        }
    } else {
        for (var g = lane; g < groups; g += LANES) {
            let v = x_at(g * 8u, i);
            let low0 = x_0(v);
            let high0 = x_1(v);
            let at = first + g;
            let q0 = quant_read(at);
            let q1 = quant_read(at + groups);
            let q2 = quant_read(at + 2u * groups);
            let q3 = quant_read(at + 3u * groups);
            var s0 = vec2<f32>();
            var s1 = vec2<f32>();
            var s2 = vec2<f32>();
            var s3 = vec2<f32>();
            s0 = quant_step(q0, 0u, low0, high0, s0);
            s1 = quant_step(q1, 0u, low0, high0, s1);
            s2 = quant_step(q2, 0u, low0, high0, s2);
            s3 = quant_step(q3, 0u, low0, high0, s3);
            var x_sums = group_sums(low0, high0);
            let low1 = x_2(v);
            let high1 = x_3(v);
            s0 = quant_step(q0, 1u, low1, high1, s0);
            s1 = quant_step(q1, 1u, low1, high1, s1);
            s2 = quant_step(q2, 1u, low1, high1, s2);
            s3 = quant_step(q3, 1u, low1, high1, s3);
            x_sums += group_sums(low1, high1);
            let x_half = x_sums.x + x_sums.y;
            sum.x = quant_half(sum.x, at, g, s0, x_half);
            sum.y = quant_half(sum.y, at + groups, g, s1, x_half);
            sum.z = quant_half(sum.z, at + 2u * groups, g, s2, x_half);
            sum.w = quant_half(sum.w, at + 3u * groups, g, s3, x_half);
            s0 = quant_rest(s0);
            s1 = quant_rest(s1);
            s2 = quant_rest(s2);
            s3 = quant_rest(s3);
            let low2 = x_4(v);
            let high2 = x_5(v);
            s0 = quant_step(q0, 2u, low2, high2, s0);
            s1 = quant_step(q1, 2u, low2, high2, s1);
            s2 = quant_step(q2, 2u, low2, high2, s2);
            s3 = quant_step(q3, 2u, low2, high2, s3);
            x_sums += group_sums(low2, high2);
            let low3 = x_6(v);
            let high3 = x_7(v);
            s0 = quant_step(q0, 3u, low3, high3, s0);
            s1 = quant_step(q1, 3u, low3, high3, s1);
            s2 = quant_step(q2, 3u, low3, high3, s2);
            s3 = quant_step(q3, 3u, low3, high3, s3);
            x_sums += group_sums(low3, high3);
            sum.x = quant_add(sum.x, at, g, s0, x_sums, x_half);
            sum.y = quant_add(sum.y, at + groups, g, s1, x_sums, x_half);
            sum.z = quant_add(sum.z, at + 2u * groups, g, s2, x_sums, x_half);
            sum.w = quant_add(sum.w, at + 3u * groups, g, s3, x_sums, x_half);
        }
    }

    // 2. sums over the lanes of the team, and the factor that an RMSNorm before this leaves to us
    sum = lanes_sum(sum, i) * scale_of(lanes_total(scale_part(lane), i));

    // 3. one lane writes; the biases of the second matrix lie behind those of the first
    if lane != 0u || row >= m {
        return;
    }
    let b = select(0u, shape.m, is_second) + row;
    put(is_second, row, m, sum.xy + bias2(b));
    if row + 2u < m { put(is_second, row + 2u, m, sum.zw + bias2(b + 2u)); }
}

fn put(is_second: bool, row: u32, m: u32, v: vec2<f32>) {
    let more = row + 1u < m;
    if is_second {
        y2[row] = v.x;
        if more { y2[row + 1u] = v.y; }
    } else {
        y[row] = v.x;
        if more { y[row + 1u] = v.y; }
    }
}
