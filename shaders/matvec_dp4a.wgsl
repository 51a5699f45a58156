//! matvec_dp4a — y = W·x for one row, W quantized, by dot products of four bytes.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [K]     f32
//! y       [M]     f32, by `epilogue` and `fold`
//! grid    ceil(M / (4·WG/LANES)) workgroups, linear over (x, y) since there may be more than 65535
//! group   WG invocations are WG/LANES teams of LANES; a team shares 4 rows, its lane i takes groups i, i+LANES, …
//! turn    4·32 weights, 0·4 bytes of x
//! const   WG, LANES  powers of two, LANES ≤ WG;  CHUNK  groups of x at a time;  WORDS  4·CHUNK
//! import  group, shape, quant, lanes, scale, fold, epilogue
//! tail    W has zeros up to a multiple of 4 rows; rows ≥ M are not written; K is a whole number of groups
//! exact   x is rounded to 15 bits of the largest of its group; sums of a group are exact: nmse ≤ 1e-5 with outliers
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override LANES: u32;
override CHUNK: u32;
override WORDS: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

// 256·high + low, both signed bytes, in units of `unit`. A group has four words of each: quads 0 to 3, then 4 to 7.
var<workgroup> bytes: array<vec4<u32>, WORDS>;
var<workgroup> unit: array<vec4<f32>, CHUNK>; // and the sums of even quads, odd quads, the first half

struct Split { high: u32, low: u32 }

fn split(v: vec4<f32>, per_unit: f32) -> Split {
    let q = vec4<i32>(round(v * per_unit));
    let high = (q + 128) >> vec4<u32>(8u);
    return Split(pack4xI8(high), pack4xI8(q - (high << vec4<u32>(8u))));
}

// Quantizes group `g` of x into place `to`.
fn quantize(g: u32, to: u32) {
    let at = g * 8u;
    let v = Group(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]);
    let most = group_most(v);
    let per_unit = select(0.0, 32512.0 / most, most > 1e-30);
    let s0 = split(v.v0, per_unit);
    let s1 = split(v.v1, per_unit);
    let s2 = split(v.v2, per_unit);
    let s3 = split(v.v3, per_unit);
    let s4 = split(v.v4, per_unit);
    let s5 = split(v.v5, per_unit);
    let s6 = split(v.v6, per_unit);
    let s7 = split(v.v7, per_unit);
    bytes[4u * to] = vec4<u32>(s0.high, s1.high, s2.high, s3.high);
    bytes[4u * to + 1u] = vec4<u32>(s0.low, s1.low, s2.low, s3.low);
    bytes[4u * to + 2u] = vec4<u32>(s4.high, s5.high, s6.high, s7.high);
    bytes[4u * to + 3u] = vec4<u32>(s4.low, s5.low, s6.low, s7.low);
    let half = group_sums(v.v0, v.v1) + group_sums(v.v2, v.v3);
    let all = half + group_sums(v.v4, v.v5) + group_sums(v.v6, v.v7);
    unit[to] = vec4<f32>(most / 32512.0, all, half.x + half.y);
}

// Eight weights: adds to the sums with high and low bytes.
fn step8(b: vec2<u32>, high: vec2<u32>, low: vec2<u32>, s: vec2<i32>) -> vec2<i32> {
    return vec2<i32>(
        dot4I8Packed(b.y, high.y) + (dot4I8Packed(b.x, high.x) + s.x),
        dot4I8Packed(b.y, low.y) + (dot4I8Packed(b.x, low.x) + s.y),
    );
}

fn value(s: vec2<i32>, u: f32, x_sum: f32) -> vec2<f32> {
    let v = u * f32((s.x << 8u) + s.y);
    if SIGNED_BY > 0u {
        return vec2<f32>(fma(f32(SIGNED_BY), x_sum, v), 0.0);
    }
    return vec2<f32>(v, 0.0);
}

fn signed(b: vec2<u32>) -> vec2<u32> {
    return b ^ vec2<u32>(SIGNED_BY * 0x01010101u);
}

// One group of a row.
fn row_dot(sum: f32, at: u32, column: u32, h0: vec4<u32>, l0: vec4<u32>, h1: vec4<u32>, l1: vec4<u32>, u: vec4<f32>) -> f32 {
    let q = quant_read(at);
    var s = step8(signed(quant_bytes(q, 0u)), h0.xy, l0.xy, vec2<i32>());
    s = step8(signed(quant_bytes(q, 1u)), h0.zw, l0.zw, s);
    if HALVES {
        let first = quant_half(sum, at, column, value(s, u.x, u.w), u.w);
        s = step8(signed(quant_bytes(q, 2u)), h1.xy, l1.xy, vec2<i32>());
        s = step8(signed(quant_bytes(q, 3u)), h1.zw, l1.zw, s);
        return quant_add(first, at, column, value(s, u.x, u.y + u.z - u.w), u.yz, u.w);
    }
    s = step8(signed(quant_bytes(q, 2u)), h1.xy, l1.xy, s);
    s = step8(signed(quant_bytes(q, 3u)), h1.zw, l1.zw, s);
    return quant_add(sum, at, column, value(s, u.x, u.y + u.z), u.yz, u.w);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let workgroup = id.y * count.x + id.x;
    let row = (workgroup * (WG / LANES) + i / LANES) * 4u;
    let lane = i % LANES;
    let groups = shape.groups;

    // 1. where the rows begin; teams without rows do as the first one does
    let first = select(0u, row, row < shape.m) * groups;

    var sum = vec4<f32>();
    for (var start = 0u; start < groups; start += CHUNK) {
        // 2. a piece of x, quantized once for all rows of the workgroup
        let end = min(start + CHUNK, groups);
        workgroupBarrier();
        for (var g = start + i; g < end; g += WG) {
            quantize(g, g - start);
        }
        workgroupBarrier();

        // 3. partial dot products of the rows
        for (var g = start + lane; g < end; g += LANES) {
            let at = 4u * (g - start);
            let h0 = bytes[at];
            let l0 = bytes[at + 1u];
            let h1 = bytes[at + 2u];
            let l1 = bytes[at + 3u];
            let u = unit[g - start];
            let w = first + g;
            sum.x = row_dot(sum.x, w, g, h0, l0, h1, l1, u);
            sum.y = row_dot(sum.y, w + groups, g, h0, l0, h1, l1, u);
            sum.z = row_dot(sum.z, w + 2u * groups, g, h0, l0, h1, l1, u);
            sum.w = row_dot(sum.w, w + 3u * groups, g, h0, l0, h1, l1, u);
        }
    }

    // 4. sums over the lanes of the team, and the factor that an RMSNorm before this leaves to us
    sum = lanes_sum(sum, i) * scale_of(lanes_total(scale_part(lane), i));

    // 5. one lane writes
    if lane == 0u && row < shape.m {
        epilogue(0u, row, sum.xy);
        if row + 2u < shape.m { epilogue(0u, row + 2u, sum.zw); }
    }
    fold_finish(workgroup, i);
}
