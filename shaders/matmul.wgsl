//! matmul — y = x·Wᵀ for several rows, W quantized. plain
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `tile`
//! grid    (ceil(M / (4·WG)), tiles of 6 rows of x) workgroups; `tile` says which
//! group   an invocation makes a tile of 4 weight rows × 6 rows of x in registers; x is uniform
//! const   WG
//! import  group, shape, x, quant, tile
//! tail    rows of W and x that exist stand in for those that do not, whose results are dropped; K is whole groups
//! exact   f32 sums; order differs from the CPU: nmse ≤ 1e-7
//! cpu     src/backend/cpu/ops/matmul.rs

override WG: u32;

// Four numbers of K of the four weight rows.
struct Four {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// The sums of four weight rows with each of six rows of x.
struct Sums {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
    s4: vec4<f32>,
    s5: vec4<f32>,
}

// Side by side rather than as four dot products: all sums stay in registers.
fn add(s: vec4<f32>, w: Four, v: vec4<f32>) -> vec4<f32> {
    let x = fma(vec4<f32>(w.a.x, w.b.x, w.c.x, w.d.x), vec4<f32>(v.x), s);
    let y = fma(vec4<f32>(w.a.y, w.b.y, w.c.y, w.d.y), vec4<f32>(v.y), x);
    let z = fma(vec4<f32>(w.a.z, w.b.z, w.c.z, w.d.z), vec4<f32>(v.z), y);
    return fma(vec4<f32>(w.a.w, w.b.w, w.c.w, w.d.w), vec4<f32>(v.w), z);
}

fn add_all(
    s: Sums, w: Four, v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>, v4: vec4<f32>, v5: vec4<f32>,
) -> Sums {
    return Sums(add(s.s0, w, v0), add(s.s1, w, v1), add(s.s2, w, v2), add(s.s3, w, v3), add(s.s4, w, v4), add(s.s5, w, v5));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let tile = tile_at(id, count, 6u);
    if !tile_has(tile, id.x * WG * 4u, WG * 4u) {
        return;
    }
    let row = (id.x * WG + i) * 4u;
    let groups = shape.groups;

    // 1. where the four weight rows and the six rows of x begin
    let w0 = tile_w(tile, row) * groups;
    let w1 = tile_w(tile, row + 1u) * groups;
    let w2 = tile_w(tile, row + 2u) * groups;
    let w3 = tile_w(tile, row + 3u) * groups;
    let pitch = groups * 8u;
    let last = tile.end - 1u;
    let x0 = tile_x(tile_row(tile.first)) * pitch;
    let x1 = tile_x(tile_row(min(tile.first + 1u, last))) * pitch;
    let x2 = tile_x(tile_row(min(tile.first + 2u, last))) * pitch;
    let x3 = tile_x(tile_row(min(tile.first + 3u, last))) * pitch;
    let x4 = tile_x(tile_row(min(tile.first + 4u, last))) * pitch;
    let x5 = tile_x(tile_row(min(tile.first + 5u, last))) * pitch;

    // 2. one group of K at a time
    var s = Sums();
    for (var g = 0u; g < groups; g++) {
        let a = quant_group(w0 + g);
        let b = quant_group(w1 + g);
        let c = quant_group(w2 + g);
        let d = quant_group(w3 + g);
        let at = g * 8u;
        let v0 = x_at(x0 + at, i);
        let v1 = x_at(x1 + at, i);
        let v2 = x_at(x2 + at, i);
        let v3 = x_at(x3 + at, i);
        let v4 = x_at(x4 + at, i);
        let v5 = x_at(x5 + at, i);
        s = add_all(s, Four(a.v0, b.v0, c.v0, d.v0), x_0(v0), x_0(v1), x_0(v2), x_0(v3), x_0(v4), x_0(v5));
        s = add_all(s, Four(a.v1, b.v1, c.v1, d.v1), x_1(v0), x_1(v1), x_1(v2), x_1(v3), x_1(v4), x_1(v5));
        s = add_all(s, Four(a.v2, b.v2, c.v2, d.v2), x_2(v0), x_2(v1), x_2(v2), x_2(v3), x_2(v4), x_2(v5));
        s = add_all(s, Four(a.v3, b.v3, c.v3, d.v3), x_3(v0), x_3(v1), x_3(v2), x_3(v3), x_3(v4), x_3(v5));
        s = add_all(s, Four(a.v4, b.v4, c.v4, d.v4), x_4(v0), x_4(v1), x_4(v2), x_4(v3), x_4(v4), x_4(v5));
        s = add_all(s, Four(a.v5, b.v5, c.v5, d.v5), x_5(v0), x_5(v1), x_5(v2), x_5(v3), x_5(v4), x_5(v5));
        s = add_all(s, Four(a.v6, b.v6, c.v6, d.v6), x_6(v0), x_6(v1), x_6(v2), x_6(v3), x_6(v4), x_6(v5));
        s = add_all(s, Four(a.v7, b.v7, c.v7, d.v7), x_7(v0), x_7(v1), x_7(v2), x_7(v3), x_7(v4), x_7(v5));
    }

    // 3. rows that exist are written
    finish(tile, tile.first, row, s.s0);
    finish(tile, tile.first + 1u, row, s.s1);
    finish(tile, tile.first + 2u, row, s.s2);
    finish(tile, tile.first + 3u, row, s.s3);
    finish(tile, tile.first + 4u, row, s.s4);
    finish(tile, tile.first + 5u, row, s.s5);
}

fn finish(tile: Tile, place: u32, row: u32, s: vec4<f32>) {
    if place < tile.end {
        let t = tile_row(place);
        tile_write(tile, t, row, s.xy);
        tile_write(tile, t, row + 2u, s.zw);
    }
}
