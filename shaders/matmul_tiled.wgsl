//! matmul_tiled — y = x·Wᵀ for many rows, W quantized, through tiles in workgroup memory.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `tile`
//! grid    (ceil(M / 64), tiles of WG / 2 rows of x) workgroups; `tile` says which
//! group   an invocation makes 8 weight rows × 4 rows of x in registers: rows 2a, 2a + 1 of every 16, and c of every WG / 8
//! const   WG  a multiple of 64;  X_LEN = 4 · WG
//! import  group, shape, quant, tile
//! tail    rows of W and x that exist stand in for those that do not, whose results are dropped; K is whole groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;
override X_LEN: u32;

const TILE_M = 64u;
const HALF = 256u; // vectors of half a tile of W

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]

// Eight vectors a row, a group of K. Vector k of row r lies at k ^ (r % 8), so that eight neighbouring rows, read at once, are in
// different banks. Of W the even rows lie before the odd ones, since an invocation reads both of a pair.
var<workgroup> w_tile: array<vec4<f32>, 512>;
var<workgroup> x_tile: array<vec4<f32>, X_LEN>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let tile_t = WG / 2u;
    let each = WG / 8u;
    let m0 = id.x * TILE_M;
    let tile = tile_at(id, count, tile_t);
    if !tile_has(tile, m0, TILE_M) {
        return;
    }
    let groups = shape.groups;
    let a = i % 8u;
    let c = i / 8u;

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
        // 1. each weight of the tile is dequantized once
        workgroupBarrier();
        for (var r = i; r < TILE_M; r += WG) {
            let q = quant_group(tile_w(tile, m0 + r % 32u * 2u + r / 32u) * groups + g);
            let at = 8u * r;
            let z = r % 8u;
            w_tile[at + z] = q.v0;
            w_tile[at + (1u ^ z)] = q.v1;
            w_tile[at + (2u ^ z)] = q.v2;
            w_tile[at + (3u ^ z)] = q.v3;
            w_tile[at + (4u ^ z)] = q.v4;
            w_tile[at + (5u ^ z)] = q.v5;
            w_tile[at + (6u ^ z)] = q.v6;
            w_tile[at + (7u ^ z)] = q.v7;
        }
        for (var r = c; r < tile_t; r += each) {
            x_tile[8u * r + (a ^ (r % 8u))] = x[(tile_x(tile_row(min(tile.first + r, tile.end - 1u))) * groups + g) * 8u + a];
        }
        workgroupBarrier();

        // 2. twelve vectors are read for 128 multiplications
        for (var k = 0u; k < 8u; k++) {
            let v = 8u * c + (k ^ (c % 8u));
            let w = 8u * a + (k ^ a);
            let v0 = x_tile[v];
            let v1 = x_tile[v + each * 8u];
            let v2 = x_tile[v + 2u * each * 8u];
            let v3 = x_tile[v + 3u * each * 8u];
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

    // 3. rows that exist are written
    let row = m0 + 2u * a;
    let place = tile.first + c;
    finish(tile, place, row, s00, s10, s20, s30);
    finish(tile, place + each, row, s01, s11, s21, s31);
    finish(tile, place + 2u * each, row, s02, s12, s22, s32);
    finish(tile, place + 3u * each, row, s03, s13, s23, s33);
}

fn finish(tile: Tile, place: u32, row: u32, s0: vec2<f32>, s1: vec2<f32>, s2: vec2<f32>, s3: vec2<f32>) {
    if place < tile.end {
        let t = tile_row(place);
        tile_write(tile, t, row, s0);
        tile_write(tile, t, row + 16u, s1);
        tile_write(tile, t, row + 32u, s2);
        tile_write(tile, t, row + 48u, s3);
    }
}
