//! expert_matvec — y = W·x with the matrices of the experts that a few rows use, W quantized; no other expert's is read.
//!
//! W       [E, M, K]  packed blocks of `quant`, row-major; this binding has m of its E·M rows, from y_offset on
//! x       [T, K] or [T, USED, K]  f32
//! route   [T, 2·USED]  f32: numbers of experts, then their weights
//! y       [T, USED, M]  f32, by `expert_epilogue`
//! grid    (workgroups, T·USED slots, planes): x and z together are ceil(M / (2·WG/LANES)) workgroups, of which there may be more
//!         than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares 2 rows, its lane i takes groups i, i+LANES, …
//! turn    2·32 weights, 32·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG;  M;  USED;  EACH  slots that a row of x is for: 1 or USED
//! import  group, shape, x, quant, lanes, scale, expert_epilogue
//! tail    rows that are not the expert's, or not in this binding, are not written; K is a whole number of groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/expert_matmul.rs

override WG: u32;
override LANES: u32;
override M: u32;
override USED: u32;
override EACH: u32;

@group(0) @binding(2) var<storage, read> route: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let slot = id.y;
    let expert = u32(route[slot / USED * 2u * USED + slot % USED]);
    let row = ((id.z * count.x + id.x) * (WG / LANES) + i / LANES) * 2u;
    let lane = i % LANES;
    let groups = shape.groups;

    // 1. where the rows begin, if they are in this binding (what is before it wraps round); rows that are not do as row 0 does
    let at = expert * M + row - shape.y_offset;
    let there = vec2<bool>(row < M && at < shape.m, row + 1u < M && at + 1u < shape.m);
    let w0 = select(0u, at, there.x) * groups;
    let w1 = select(0u, at + 1u, there.y) * groups;
    let x0 = slot / EACH * groups * 8u;

    // 2. partial dot products, eight weights of each row at a time
    var sum = vec4<f32>();
    for (var g = lane; g < groups; g += LANES) {
        let v = x_at(x0 + g * 8u, i);
        let q0 = quant_read(w0 + g);
        let q1 = quant_read(w1 + g);
        let low0 = x_0(v);
        let high0 = x_1(v);
        var s0 = quant_step(q0, 0u, low0, high0, vec2<f32>());
        var s1 = quant_step(q1, 0u, low0, high0, vec2<f32>());
        let low1 = x_2(v);
        let high1 = x_3(v);
        s0 = quant_step(q0, 1u, low1, high1, s0);
        s1 = quant_step(q1, 1u, low1, high1, s1);
        var x_sums = group_sums(low0, high0) + group_sums(low1, high1);
        let x_half = x_sums.x + x_sums.y;
        sum.x = quant_half(sum.x, w0 + g, g, s0, x_half);
        sum.y = quant_half(sum.y, w1 + g, g, s1, x_half);
        s0 = quant_rest(s0);
        s1 = quant_rest(s1);
        let low2 = x_4(v);
        let high2 = x_5(v);
        s0 = quant_step(q0, 2u, low2, high2, s0);
        s1 = quant_step(q1, 2u, low2, high2, s1);
        let low3 = x_6(v);
        let high3 = x_7(v);
        s0 = quant_step(q0, 3u, low3, high3, s0);
        s1 = quant_step(q1, 3u, low3, high3, s1);
        x_sums += group_sums(low2, high2) + group_sums(low3, high3);
        sum.x = quant_add(sum.x, w0 + g, g, s0, x_sums, x_half);
        sum.y = quant_add(sum.y, w1 + g, g, s1, x_sums, x_half);
    }

    // 3. sums over the lanes of the team, and the factor that an RMSNorm before this leaves to us; one lane writes
    sum = lanes_sum(sum, i) * scale_of(lanes_total(scale_part(lane), i));
    if lane == 0u {
        expert_epilogue(slot, expert, row, sum.xy, there);
    }
}
