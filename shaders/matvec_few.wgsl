//! matvec_few — y = x·Wᵀ for two to eight rows of x, W quantized and read once.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `epilogue`
//! grid    (workgroups, ceil(T / COLS), planes): x and z together are ceil(M / (2·WG/LANES)) workgroups, of which there may be
//!         more than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares 2 rows of W, its lane i takes groups i, i+LANES, …
//! turn    2·32 weights, COLS·32·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG;  COLS  2, 4 or 8
//! import  group, shape, x, quant, lanes, epilogue
//! tail    W has zeros up to a multiple of 4 rows; rows ≥ M are not written; the last row of x stands in for rows that do not
//!         exist; K is a whole number of groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override LANES: u32;
override COLS: u32;

@group(0) @binding(4) var<uniform> step: vec4<u32>; // T of the step, N of the outputs

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let row = ((id.z * count.x + id.x) * (WG / LANES) + i / LANES) * 2u;
    let t = id.y * COLS;
    let n = step[shape.section];
    let lane = i % LANES;
    let groups = shape.groups;

    // 1. where the rows begin; teams without rows do as the first one does
    let first = select(0u, row, row < shape.m) * groups;
    let pitch = groups * 8u;
    let x0 = min(t + 0u, n - 1u) * pitch;
    let x1 = min(t + 1u, n - 1u) * pitch;
    let x2 = min(t + 2u, n - 1u) * pitch;
    let x3 = min(t + 3u, n - 1u) * pitch;
    let x4 = min(t + 4u, n - 1u) * pitch;
    let x5 = min(t + 5u, n - 1u) * pitch;
    let x6 = min(t + 6u, n - 1u) * pitch;
    let x7 = min(t + 7u, n - 1u) * pitch;

    // 2. partial dot products, eight weights of each row at a time
    var sum0a = vec4<f32>();
    var sum0b = vec4<f32>();
    var sum1a = vec4<f32>();
    var sum1b = vec4<f32>();
    for (var g = lane; g < groups; g += LANES) {
        let at = first + g;
        let q0 = quant_read(at);
        let q1 = quant_read(at + groups);
        var s00 = vec2<f32>();
        var s01 = vec2<f32>();
        var s02 = vec2<f32>();
        var s03 = vec2<f32>();
        var s10 = vec2<f32>();
        var s11 = vec2<f32>();
        var s12 = vec2<f32>();
        var s13 = vec2<f32>();
        var sums0 = vec2<f32>();
        var sums1 = vec2<f32>();
        var sums2 = vec2<f32>();
        var sums3 = vec2<f32>();
        let v0 = x_at(x0 + g * 8u, i);
        let v1 = x_at(x1 + g * 8u, i);
        let v2 = x_at(x2 + g * 8u, i);
        let v3 = x_at(x3 + g * 8u, i);
        let low00 = x_0(v0);
        let high00 = x_1(v0);
        s00 = quant_step(q0, 0u, low00, high00, s00);
        s10 = quant_step(q1, 0u, low00, high00, s10);
        sums0 += group_sums(low00, high00);
        let low01 = x_0(v1);
        let high01 = x_1(v1);
        s01 = quant_step(q0, 0u, low01, high01, s01);
        s11 = quant_step(q1, 0u, low01, high01, s11);
        sums1 += group_sums(low01, high01);
        if COLS > 2u {
            let low02 = x_0(v2);
            let high02 = x_1(v2);
            s02 = quant_step(q0, 0u, low02, high02, s02);
            s12 = quant_step(q1, 0u, low02, high02, s12);
            sums2 += group_sums(low02, high02);
            let low03 = x_0(v3);
            let high03 = x_1(v3);
            s03 = quant_step(q0, 0u, low03, high03, s03);
            s13 = quant_step(q1, 0u, low03, high03, s13);
            sums3 += group_sums(low03, high03);
        }
        let low10 = x_2(v0);
        let high10 = x_3(v0);
        s00 = quant_step(q0, 1u, low10, high10, s00);
        s10 = quant_step(q1, 1u, low10, high10, s10);
        sums0 += group_sums(low10, high10);
        let low11 = x_2(v1);
        let high11 = x_3(v1);
        s01 = quant_step(q0, 1u, low11, high11, s01);
        s11 = quant_step(q1, 1u, low11, high11, s11);
        sums1 += group_sums(low11, high11);
        if COLS > 2u {
            let low12 = x_2(v2);
            let high12 = x_3(v2);
            s02 = quant_step(q0, 1u, low12, high12, s02);
            s12 = quant_step(q1, 1u, low12, high12, s12);
            sums2 += group_sums(low12, high12);
            let low13 = x_2(v3);
            let high13 = x_3(v3);
            s03 = quant_step(q0, 1u, low13, high13, s03);
            s13 = quant_step(q1, 1u, low13, high13, s13);
            sums3 += group_sums(low13, high13);
        }
        let half0 = sums0.x + sums0.y;
        let half1 = sums1.x + sums1.y;
        let half2 = sums2.x + sums2.y;
        let half3 = sums3.x + sums3.y;
        sum0a.x = quant_half(sum0a.x, at, g, s00, half0);
        sum1a.x = quant_half(sum1a.x, at + groups, g, s10, half0);
        s00 = quant_rest(s00);
        s10 = quant_rest(s10);
        sum0a.y = quant_half(sum0a.y, at, g, s01, half1);
        sum1a.y = quant_half(sum1a.y, at + groups, g, s11, half1);
        s01 = quant_rest(s01);
        s11 = quant_rest(s11);
        if COLS > 2u {
            sum0a.z = quant_half(sum0a.z, at, g, s02, half2);
            sum1a.z = quant_half(sum1a.z, at + groups, g, s12, half2);
            s02 = quant_rest(s02);
            s12 = quant_rest(s12);
            sum0a.w = quant_half(sum0a.w, at, g, s03, half3);
            sum1a.w = quant_half(sum1a.w, at + groups, g, s13, half3);
            s03 = quant_rest(s03);
            s13 = quant_rest(s13);
        }
        let low20 = x_4(v0);
        let high20 = x_5(v0);
        s00 = quant_step(q0, 2u, low20, high20, s00);
        s10 = quant_step(q1, 2u, low20, high20, s10);
        sums0 += group_sums(low20, high20);
        let low21 = x_4(v1);
        let high21 = x_5(v1);
        s01 = quant_step(q0, 2u, low21, high21, s01);
        s11 = quant_step(q1, 2u, low21, high21, s11);
        sums1 += group_sums(low21, high21);
        if COLS > 2u {
            let low22 = x_4(v2);
            let high22 = x_5(v2);
            s02 = quant_step(q0, 2u, low22, high22, s02);
            s12 = quant_step(q1, 2u, low22, high22, s12);
            sums2 += group_sums(low22, high22);
            let low23 = x_4(v3);
            let high23 = x_5(v3);
            s03 = quant_step(q0, 2u, low23, high23, s03);
            s13 = quant_step(q1, 2u, low23, high23, s13);
            sums3 += group_sums(low23, high23);
        }
        let low30 = x_6(v0);
        let high30 = x_7(v0);
        s00 = quant_step(q0, 3u, low30, high30, s00);
        s10 = quant_step(q1, 3u, low30, high30, s10);
        sums0 += group_sums(low30, high30);
        let low31 = x_6(v1);
        let high31 = x_7(v1);
        s01 = quant_step(q0, 3u, low31, high31, s01);
        s11 = quant_step(q1, 3u, low31, high31, s11);
        sums1 += group_sums(low31, high31);
        if COLS > 2u {
            let low32 = x_6(v2);
            let high32 = x_7(v2);
            s02 = quant_step(q0, 3u, low32, high32, s02);
            s12 = quant_step(q1, 3u, low32, high32, s12);
            sums2 += group_sums(low32, high32);
            let low33 = x_6(v3);
            let high33 = x_7(v3);
            s03 = quant_step(q0, 3u, low33, high33, s03);
            s13 = quant_step(q1, 3u, low33, high33, s13);
            sums3 += group_sums(low33, high33);
        }
        sum0a.x = quant_add(sum0a.x, at, g, s00, sums0, half0);
        sum1a.x = quant_add(sum1a.x, at + groups, g, s10, sums0, half0);
        sum0a.y = quant_add(sum0a.y, at, g, s01, sums1, half1);
        sum1a.y = quant_add(sum1a.y, at + groups, g, s11, sums1, half1);
        if COLS > 2u {
            sum0a.z = quant_add(sum0a.z, at, g, s02, sums2, half2);
            sum1a.z = quant_add(sum1a.z, at + groups, g, s12, sums2, half2);
            sum0a.w = quant_add(sum0a.w, at, g, s03, sums3, half3);
            sum1a.w = quant_add(sum1a.w, at + groups, g, s13, sums3, half3);
        }
        if COLS > 4u {
            var s04 = vec2<f32>();
            var s05 = vec2<f32>();
            var s06 = vec2<f32>();
            var s07 = vec2<f32>();
            var s14 = vec2<f32>();
            var s15 = vec2<f32>();
            var s16 = vec2<f32>();
            var s17 = vec2<f32>();
            var sums4 = vec2<f32>();
            var sums5 = vec2<f32>();
            var sums6 = vec2<f32>();
            var sums7 = vec2<f32>();
            let v4 = x_at(x4 + g * 8u, i);
            let v5 = x_at(x5 + g * 8u, i);
            let v6 = x_at(x6 + g * 8u, i);
            let v7 = x_at(x7 + g * 8u, i);
            let low04 = x_0(v4);
            let high04 = x_1(v4);
            s04 = quant_step(q0, 0u, low04, high04, s04);
            s14 = quant_step(q1, 0u, low04, high04, s14);
            sums4 += group_sums(low04, high04);
            let low05 = x_0(v5);
            let high05 = x_1(v5);
            s05 = quant_step(q0, 0u, low05, high05, s05);
            s15 = quant_step(q1, 0u, low05, high05, s15);
            sums5 += group_sums(low05, high05);
            let low06 = x_0(v6);
            let high06 = x_1(v6);
            s06 = quant_step(q0, 0u, low06, high06, s06);
            s16 = quant_step(q1, 0u, low06, high06, s16);
            sums6 += group_sums(low06, high06);
            let low07 = x_0(v7);
            let high07 = x_1(v7);
            s07 = quant_step(q0, 0u, low07, high07, s07);
            s17 = quant_step(q1, 0u, low07, high07, s17);
            sums7 += group_sums(low07, high07);
            let low14 = x_2(v4);
            let high14 = x_3(v4);
            s04 = quant_step(q0, 1u, low14, high14, s04);
            s14 = quant_step(q1, 1u, low14, high14, s14);
            sums4 += group_sums(low14, high14);
            let low15 = x_2(v5);
            let high15 = x_3(v5);
            s05 = quant_step(q0, 1u, low15, high15, s05);
            s15 = quant_step(q1, 1u, low15, high15, s15);
            sums5 += group_sums(low15, high15);
            let low16 = x_2(v6);
            let high16 = x_3(v6);
            s06 = quant_step(q0, 1u, low16, high16, s06);
            s16 = quant_step(q1, 1u, low16, high16, s16);
            sums6 += group_sums(low16, high16);
            let low17 = x_2(v7);
            let high17 = x_3(v7);
            s07 = quant_step(q0, 1u, low17, high17, s07);
            s17 = quant_step(q1, 1u, low17, high17, s17);
            sums7 += group_sums(low17, high17);
            let half4 = sums4.x + sums4.y;
            let half5 = sums5.x + sums5.y;
            let half6 = sums6.x + sums6.y;
            let half7 = sums7.x + sums7.y;
            sum0b.x = quant_half(sum0b.x, at, g, s04, half4);
            sum1b.x = quant_half(sum1b.x, at + groups, g, s14, half4);
            s04 = quant_rest(s04);
            s14 = quant_rest(s14);
            sum0b.y = quant_half(sum0b.y, at, g, s05, half5);
            sum1b.y = quant_half(sum1b.y, at + groups, g, s15, half5);
            s05 = quant_rest(s05);
            s15 = quant_rest(s15);
            sum0b.z = quant_half(sum0b.z, at, g, s06, half6);
            sum1b.z = quant_half(sum1b.z, at + groups, g, s16, half6);
            s06 = quant_rest(s06);
            s16 = quant_rest(s16);
            sum0b.w = quant_half(sum0b.w, at, g, s07, half7);
            sum1b.w = quant_half(sum1b.w, at + groups, g, s17, half7);
            s07 = quant_rest(s07);
            s17 = quant_rest(s17);
            let low24 = x_4(v4);
            let high24 = x_5(v4);
            s04 = quant_step(q0, 2u, low24, high24, s04);
            s14 = quant_step(q1, 2u, low24, high24, s14);
            sums4 += group_sums(low24, high24);
            let low25 = x_4(v5);
            let high25 = x_5(v5);
            s05 = quant_step(q0, 2u, low25, high25, s05);
            s15 = quant_step(q1, 2u, low25, high25, s15);
            sums5 += group_sums(low25, high25);
            let low26 = x_4(v6);
            let high26 = x_5(v6);
            s06 = quant_step(q0, 2u, low26, high26, s06);
            s16 = quant_step(q1, 2u, low26, high26, s16);
            sums6 += group_sums(low26, high26);
            let low27 = x_4(v7);
            let high27 = x_5(v7);
            s07 = quant_step(q0, 2u, low27, high27, s07);
            s17 = quant_step(q1, 2u, low27, high27, s17);
            sums7 += group_sums(low27, high27);
            let low34 = x_6(v4);
            let high34 = x_7(v4);
            s04 = quant_step(q0, 3u, low34, high34, s04);
            s14 = quant_step(q1, 3u, low34, high34, s14);
            sums4 += group_sums(low34, high34);
            let low35 = x_6(v5);
            let high35 = x_7(v5);
            s05 = quant_step(q0, 3u, low35, high35, s05);
            s15 = quant_step(q1, 3u, low35, high35, s15);
            sums5 += group_sums(low35, high35);
            let low36 = x_6(v6);
            let high36 = x_7(v6);
            s06 = quant_step(q0, 3u, low36, high36, s06);
            s16 = quant_step(q1, 3u, low36, high36, s16);
            sums6 += group_sums(low36, high36);
            let low37 = x_6(v7);
            let high37 = x_7(v7);
            s07 = quant_step(q0, 3u, low37, high37, s07);
            s17 = quant_step(q1, 3u, low37, high37, s17);
            sums7 += group_sums(low37, high37);
            sum0b.x = quant_add(sum0b.x, at, g, s04, sums4, half4);
            sum1b.x = quant_add(sum1b.x, at + groups, g, s14, sums4, half4);
            sum0b.y = quant_add(sum0b.y, at, g, s05, sums5, half5);
            sum1b.y = quant_add(sum1b.y, at + groups, g, s15, sums5, half5);
            sum0b.z = quant_add(sum0b.z, at, g, s06, sums6, half6);
            sum1b.z = quant_add(sum1b.z, at + groups, g, s16, sums6, half6);
            sum0b.w = quant_add(sum0b.w, at, g, s07, sums7, half7);
            sum1b.w = quant_add(sum1b.w, at + groups, g, s17, sums7, half7);
        }
    }

    // 3. sums over the lanes of the team
    sum0a = lanes_sum(sum0a, i);
    sum1a = lanes_sum(sum1a, i);
    if COLS > 4u {
        sum0b = lanes_sum(sum0b, i);
        sum1b = lanes_sum(sum1b, i);
    }

    // 4. one lane writes
    if lane != 0u || row >= shape.m {
        return;
    }
    epilogue(t, row, vec2<f32>(sum0a.x, sum1a.x));
    if t + 1u < n { epilogue(t + 1u, row, vec2<f32>(sum0a.y, sum1a.y)); }
    if COLS > 2u && t + 2u < n { epilogue(t + 2u, row, vec2<f32>(sum0a.z, sum1a.z)); }
    if COLS > 2u && t + 3u < n { epilogue(t + 3u, row, vec2<f32>(sum0a.w, sum1a.w)); }
    if COLS > 4u && t + 4u < n { epilogue(t + 4u, row, vec2<f32>(sum0b.x, sum1b.x)); }
    if COLS > 4u && t + 5u < n { epilogue(t + 5u, row, vec2<f32>(sum0b.y, sum1b.y)); }
    if COLS > 4u && t + 6u < n { epilogue(t + 6u, row, vec2<f32>(sum0b.z, sum1b.z)); }
    if COLS > 4u && t + 7u < n { epilogue(t + 7u, row, vec2<f32>(sum0b.w, sum1b.w)); }
}
