//! matvec — y = W·x for one row, W quantized.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [K]     f32
//! y       [M]     f32, by `epilogue`
//! grid    ceil(M / (4·WG/LANES)) workgroups, linear over (x, y) since there may be more than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares 4 rows, its lane i takes groups i, i+LANES, …
//! turn    4·32 weights, 32·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG
//! import  group, shape, x, quant, lanes, epilogue
//! tail    rows ≥ M are not read or written; K is a whole number of groups; nothing else is assumed
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override LANES: u32;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let team = (id.y * count.x + id.x) * (WG / LANES) + i / LANES;
    let row = team * 4u;
    let groups = shape.groups;

    // 1. partial dot products of four rows; the last one stands in for rows that do not exist
    var sum = vec4<f32>();
    let w0 = min(row, shape.m - 1u) * groups;
    let w1 = min(row + 1u, shape.m - 1u) * groups;
    let w2 = min(row + 2u, shape.m - 1u) * groups;
    let w3 = min(row + 3u, shape.m - 1u) * groups;
    for (var g = i % LANES; g < groups; g += LANES) {
        let v = x_group(x_at(g * 8u, i));
        let v_sum = group_sum(v);
        sum.x += quant_dot(w0 + g, v, v_sum);
        sum.y += quant_dot(w1 + g, v, v_sum);
        sum.z += quant_dot(w2 + g, v, v_sum);
        sum.w += quant_dot(w3 + g, v, v_sum);
    }

    // 2. sum over the lanes of the team
    sum = lanes_sum(sum, i);

    // 3. one lane writes
    if i % LANES == 0u && row < shape.m {
        epilogue(0u, row, sum.xy);
        if row + 2u < shape.m { epilogue(0u, row + 2u, sum.zw); }
    }
}
