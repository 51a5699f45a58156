//! expert_matmul — y = x·Wᵀ with the matrices of the experts that many rows use, W quantized, through tiles in workgroup memory.
//!
//! W       [E, M, K]  packed blocks of `quant`, row-major; this binding has m of its E·M rows, from y_offset on
//! x       [T, K] or [T, USED, K]  f32
//! sorted  as `expert_sort` leaves it: slots by expert, in tiles of 32
//! y       [T, USED, M]  f32, by `expert_epilogue`
//! grid    (ceil(M / 64), tiles, planes): y and z together are tiles, of which there may be more than 65535
//! group   64 invocations, each with 8 weight rows × 4 slots in registers: rows 2a, 2a + 1 of every 16, and slot c of every 8
//! const   M;  EACH  slots that a row of x is for;  TILES  as `expert_sort` has it
//! import  group, shape, quant, expert_epilogue
//! tail    the last slot of a tile stands in for slots that do not exist, and row 0 for rows that are not the expert's or not in
//!         this binding, whose results are dropped; K is whole groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/expert_matmul.rs

override M: u32;
override EACH: u32;
override TILES: u32;

const WG = 64u;
const TILE_M = 64u;
const HALF = 256u; // vectors of half a tile of W

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]
@group(0) @binding(2) var<storage, read> sorted: array<u32>;

// As in `matmul_tiled`: vector k of row r lies at k ^ (r % 8); even rows of W lie before the odd ones.
var<workgroup> w_tile: array<vec4<f32>, 512>;
var<workgroup> x_tile: array<vec4<f32>, 256>;
var<workgroup> shared_tile: vec3<u32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    // 1. whose tile this is, and whether it has anything in this binding
    if i == 0u {
        let at = 3u * min(id.z * count.y + id.y, TILES - 1u);
        shared_tile = vec3<u32>(sorted[at], sorted[at + 1u], sorted[at + 2u]);
    }
    let tile = workgroupUniformLoad(&shared_tile);
    let m0 = id.x * TILE_M;
    let first = tile.x * M + m0;
    let end = shape.y_offset + shape.m;
    if tile.z == 0u || first >= end || first + TILE_M <= shape.y_offset {
        return;
    }
    let groups = shape.groups;
    let a = i % 8u;
    let c = i / 8u;
    let slots = 3u * TILES + tile.y;
    let last = tile.z - 1u;
    let slot0 = sorted[slots + min(c, last)];
    let slot1 = sorted[slots + min(c + 8u, last)];
    let slot2 = sorted[slots + min(c + 16u, last)];
    let slot3 = sorted[slots + min(c + 24u, last)];
    let pitch = groups * 8u;
    let x0 = slot0 / EACH * pitch + a;
    let x1 = slot1 / EACH * pitch + a;
    let x2 = slot2 / EACH * pitch + a;
    let x3 = slot3 / EACH * pitch + a;
    let row_here = i % 32u * 2u + i / 32u;
    let at = first + row_here - shape.y_offset;
    let w_row = select(0u, at, m0 + row_here < M && at < shape.m) * groups;

    var s00 = vec2<f32>();
    var s01 = vec2<f32>();
    var s02 = vec2<f32>();
    var s03 = vec2<f32>();
    var s10 = vec2<f32>();
    var s11 = vec2<f32>();
    var s12 = vec2<f32>();
    var s13 = vec2<f32>();
    var s20 = vec2<f32>();
    var s21 = vec2<f32>();
    var s22 = vec2<f32>();
    var s23 = vec2<f32>();
    var s30 = vec2<f32>();
    var s31 = vec2<f32>();
    var s32 = vec2<f32>();
    var s33 = vec2<f32>();
    for (var g = 0u; g < groups; g++) {
        // 2. each weight of the tile is dequantized once
        workgroupBarrier();
        let q = quant_group(w_row + g);
        let w_at = 8u * i;
        let z = i % 8u;
        w_tile[w_at + z] = q.v0;
        w_tile[w_at + (1u ^ z)] = q.v1;
        w_tile[w_at + (2u ^ z)] = q.v2;
        w_tile[w_at + (3u ^ z)] = q.v3;
        w_tile[w_at + (4u ^ z)] = q.v4;
        w_tile[w_at + (5u ^ z)] = q.v5;
        w_tile[w_at + (6u ^ z)] = q.v6;
        w_tile[w_at + (7u ^ z)] = q.v7;
        let x_at = 8u * c + (a ^ (c % 8u));
        x_tile[x_at] = x[x0 + g * 8u];
        x_tile[x_at + 64u] = x[x1 + g * 8u];
        x_tile[x_at + 128u] = x[x2 + g * 8u];
        x_tile[x_at + 192u] = x[x3 + g * 8u];
        workgroupBarrier();

        // 3. twelve vectors are read for 128 multiplications
        for (var k = 0u; k < 8u; k++) {
            let v = 8u * c + (k ^ (c % 8u));
            let w = 8u * a + (k ^ a);
            let v0 = x_tile[v];
            let v1 = x_tile[v + 64u];
            let v2 = x_tile[v + 128u];
            let v3 = x_tile[v + 192u];
            let a0 = w_tile[w];
            let b0 = w_tile[w + HALF];
            s00 = group_fma_two(s00, a0, b0, v0);
            s01 = group_fma_two(s01, a0, b0, v1);
            s02 = group_fma_two(s02, a0, b0, v2);
            s03 = group_fma_two(s03, a0, b0, v3);
            let a1 = w_tile[w + 64u];
            let b1 = w_tile[w + 64u + HALF];
            s10 = group_fma_two(s10, a1, b1, v0);
            s11 = group_fma_two(s11, a1, b1, v1);
            s12 = group_fma_two(s12, a1, b1, v2);
            s13 = group_fma_two(s13, a1, b1, v3);
            let a2 = w_tile[w + 128u];
            let b2 = w_tile[w + 128u + HALF];
            s20 = group_fma_two(s20, a2, b2, v0);
            s21 = group_fma_two(s21, a2, b2, v1);
            s22 = group_fma_two(s22, a2, b2, v2);
            s23 = group_fma_two(s23, a2, b2, v3);
            let a3 = w_tile[w + 192u];
            let b3 = w_tile[w + 192u + HALF];
            s30 = group_fma_two(s30, a3, b3, v0);
            s31 = group_fma_two(s31, a3, b3, v1);
            s32 = group_fma_two(s32, a3, b3, v2);
            s33 = group_fma_two(s33, a3, b3, v3);
        }
    }

    // 4. what exists is written
    let row = m0 + 2u * a;
    if c <= last { finish(slot0, tile.x, row, s00, s10, s20, s30); }
    if c + 8u <= last { finish(slot1, tile.x, row, s01, s11, s21, s31); }
    if c + 16u <= last { finish(slot2, tile.x, row, s02, s12, s22, s32); }
    if c + 24u <= last { finish(slot3, tile.x, row, s03, s13, s23, s33); }
}

fn finish(slot: u32, expert: u32, row: u32, s0: vec2<f32>, s1: vec2<f32>, s2: vec2<f32>, s3: vec2<f32>) {
    pair(slot, expert, row, s0);
    pair(slot, expert, row + 16u, s1);
    pair(slot, expert, row + 32u, s2);
    pair(slot, expert, row + 48u, s3);
}

fn pair(slot: u32, expert: u32, row: u32, s: vec2<f32>) {
    let at = expert * M + row - shape.y_offset;
    expert_epilogue(slot, expert, row, s, vec2<bool>(row < M && at < shape.m, row + 1u < M && at + 1u < shape.m));
}
