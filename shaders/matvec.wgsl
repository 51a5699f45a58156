//! matvec — y = W·x for one row, W quantized.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [K]     f32
//! y       [M]     f32, by `epilogue`
//! grid    ceil(M / (4·WG/LANES)) workgroups, linear over (x, y) since there may be more than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares 4 rows, its lane i takes groups i, i+LANES, …
//! const   M, K;  WG, LANES  powers of two, LANES ≤ WG
//! import  group, quant, lanes, epilogue
//! tail    rows ≥ M are not read or written; K is a whole number of groups; nothing else is assumed
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override M: u32;
override K: u32;
override WG: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [K / 4]

fn load_x(g: u32) -> Group {
    let i = g * 8u;
    return Group(x[i], x[i + 1u], x[i + 2u], x[i + 3u], x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let team = (id.y * count.x + id.x) * (WG / LANES) + i / LANES;
    let row = team * 4u;
    let groups = K / 32u;

    // 1. partial dot products of four rows; the row test folds away where M is a multiple of four
    var sum = vec4<f32>();
    if row < M {
        for (var g = i % LANES; g < groups; g += LANES) {
            let v = load_x(g);
            let v_sum = group_sum(v);
            let w = row * groups + g;
            sum.x += quant_dot(w, v, v_sum);
            if M % 4u == 0u || row + 1u < M { sum.y += quant_dot(w + groups, v, v_sum); }
            if M % 4u == 0u || row + 2u < M { sum.z += quant_dot(w + 2u * groups, v, v_sum); }
            if M % 4u == 0u || row + 3u < M { sum.w += quant_dot(w + 3u * groups, v, v_sum); }
        }
    }

    // 2. sum over the lanes of the team
    sum = lanes_sum(sum, i);

    // 3. one lane writes
    if i % LANES == 0u && row < M {
        epilogue(0u, row, sum);
    }
}
