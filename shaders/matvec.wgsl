//! matvec — y = W·x for one row, W quantized.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [K]     f32
//! y       [M]     f32, by `epilogue` and `fold`
//! grid    ceil(M / (ROWS·WG/LANES)) workgroups, linear over (x, y) since there may be more than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares ROWS rows, its lane i takes groups i, i+LANES, …
//! turn    ROWS·32 weights, 32·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG;  ROWS  2 or 4
//! import  group, shape, x, quant, lanes, scale, fold, epilogue
//! tail    W has zeros up to a multiple of 4 rows; rows ≥ M are not written; K is a whole number of groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override LANES: u32;
override ROWS: u32;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let workgroup = id.y * count.x + id.x;
    let row = (workgroup * (WG / LANES) + i / LANES) * ROWS;
    let lane = i % LANES;
    let groups = shape.groups;

    // 1. where the rows begin; teams without rows do as the first one does
    let first = select(0u, row, row < shape.m) * groups;

    // 2. partial dot products of the rows, eight weights of each at a time
    var sum = vec4<f32>();
    for (var g = lane; g < groups; g += LANES) {
        let v = x_at(g * 8u, i);
        let low0 = x_0(v);
        let high0 = x_1(v);
        let at = first + g;
        let q0 = quant_read(at);
        let q1 = quant_read(at + groups);
        var q2 = q1;
        var q3 = q1;
        if ROWS > 2u {
            q2 = quant_read(at + 2u * groups);
            q3 = quant_read(at + 3u * groups);
        }
        var s0 = vec2<f32>();
        var s1 = vec2<f32>();
        var s2 = vec2<f32>();
        var s3 = vec2<f32>();
        s0 = quant_step(q0, 0u, low0, high0, s0);
        s1 = quant_step(q1, 0u, low0, high0, s1);
        if ROWS > 2u {
            s2 = quant_step(q2, 0u, low0, high0, s2);
            s3 = quant_step(q3, 0u, low0, high0, s3);
        }
        var x_sums = group_sums(low0, high0);
        let low1 = x_2(v);
        let high1 = x_3(v);
        s0 = quant_step(q0, 1u, low1, high1, s0);
        s1 = quant_step(q1, 1u, low1, high1, s1);
        if ROWS > 2u {
            s2 = quant_step(q2, 1u, low1, high1, s2);
            s3 = quant_step(q3, 1u, low1, high1, s3);
        }
        x_sums += group_sums(low1, high1);
        let x_half = x_sums.x + x_sums.y;
        sum.x = quant_half(sum.x, at, g, s0, x_half);
        sum.y = quant_half(sum.y, at + groups, g, s1, x_half);
        if ROWS > 2u {
            sum.z = quant_half(sum.z, at + 2u * groups, g, s2, x_half);
            sum.w = quant_half(sum.w, at + 3u * groups, g, s3, x_half);
        }
        s0 = quant_rest(s0);
        s1 = quant_rest(s1);
        if ROWS > 2u {
            s2 = quant_rest(s2);
            s3 = quant_rest(s3);
        }
        let low2 = x_4(v);
        let high2 = x_5(v);
        s0 = quant_step(q0, 2u, low2, high2, s0);
        s1 = quant_step(q1, 2u, low2, high2, s1);
        if ROWS > 2u {
            s2 = quant_step(q2, 2u, low2, high2, s2);
            s3 = quant_step(q3, 2u, low2, high2, s3);
        }
        x_sums += group_sums(low2, high2);
        let low3 = x_6(v);
        let high3 = x_7(v);
        s0 = quant_step(q0, 3u, low3, high3, s0);
        s1 = quant_step(q1, 3u, low3, high3, s1);
        if ROWS > 2u {
            s2 = quant_step(q2, 3u, low3, high3, s2);
            s3 = quant_step(q3, 3u, low3, high3, s3);
        }
        x_sums += group_sums(low3, high3);
        sum.x = quant_add(sum.x, at, g, s0, x_sums, x_half);
        sum.y = quant_add(sum.y, at + groups, g, s1, x_sums, x_half);
        if ROWS > 2u {
            sum.z = quant_add(sum.z, at + 2u * groups, g, s2, x_sums, x_half);
            sum.w = quant_add(sum.w, at + 3u * groups, g, s3, x_sums, x_half);
        }
    }

    // 3. sums over the lanes of the team, and the factor that an RMSNorm before this leaves to us
    sum = lanes_sum(sum, i) * scale_of(lanes_total(scale_part(lane), i));

    // 4. one lane writes
    if lane == 0u && row < shape.m {
        epilogue(0u, row, sum.xy);
        if ROWS > 2u && row + 2u < shape.m { epilogue(0u, row + 2u, sum.zw); }
    }
    fold_finish(workgroup, i);
}
