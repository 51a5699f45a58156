//! halves — tiles of W and x as f16 in workgroup memory, for cooperative matrices, and the way back to f32.
//!
//! Each row is multiplied by a power of two of its own, which brings its largest number to the top of f16's range: nothing
//! overflows, and what becomes denormal is 2⁻²⁹ of the row's largest number. The result is divided by both, exactly.
//!
//! exports halves_scales  finds the scales of a tile's rows
//!         halves_fill    fills w_tile and x_tile with STEP numbers of K
//!         halves_finish  hands two results to the epilogue
//! x       [T, K]  f32
//! const   WG, SIDE, TILE_T, X_LEN = STEP · TILE_T, STRIP_LEN ≥ 4 · TILE_M  of the kernel
//! import  group, shape, quant, epilogue
//! tail    the last row of W and of x stands in for rows that do not exist; groups that do not exist are zeros
//! exact   operands are rounded to 11 bits, products and sums are those of the matrix unit
//! note    halves_scales holds barriers: to be called in uniform control flow

enable f16;

override WG: u32;

const TILE_M = 64u;
const STEP = 64u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]
@group(0) @binding(4) var<uniform> step: vec4<u32>; // T of the step, N of the outputs

// Matrices of SIDE × SIDE, each in one piece: [STEP / SIDE][rows / SIDE][row][k].
var<workgroup> w_tile: array<f16, 4096>;
var<workgroup> x_tile: array<f16, X_LEN>;
var<workgroup> w_scale: array<f32, 64>;
var<workgroup> x_scale: array<f32, TILE_T>;
// Largest numbers at first, zeros that sums begin with, sums at last.
var<workgroup> strip: array<f32, STRIP_LEN>;

struct Tile {
    /// First row of W, first row of x.
    m: u32,
    t: u32,
    /// Rows of x that exist.
    n: u32,
}

// The power of two that brings a row whose largest number is `most` below 2¹⁵.
fn halves_scale(most: f32) -> f32 {
    // Bounds keep the scale and its inverse normal numbers.
    let exponent = clamp(bitcast<u32>(most) >> 23u, 15u, 254u);
    return bitcast<f32>((268u - exponent) << 23u);
}

fn halves_inverse(scale: f32) -> f32 {
    return bitcast<f32>((254u << 23u) - bitcast<u32>(scale));
}

// The largest of the four numbers that the invocations of row r have left.
fn halves_most(r: u32) -> f32 {
    return max(max(strip[4u * r], strip[4u * r + 1u]), max(strip[4u * r + 2u], strip[4u * r + 3u]));
}

fn halves_scales(tile: Tile, i: u32) {
    let groups = shape.groups;
    // 1. four invocations share a row of W, whose numbers have a bound a group
    for (var u = i; u < 4u * TILE_M; u += WG) {
        let row = min(tile.m + u / 4u, shape.m - 1u) * groups;
        var most = 0.0;
        for (var g = u % 4u; g < groups; g += 4u) {
            most = max(most, quant_bound(row + g));
        }
        strip[u] = most;
    }
    workgroupBarrier();
    for (var r = i; r < TILE_M; r += WG) {
        w_scale[r] = halves_scale(halves_most(r));
    }
    workgroupBarrier();

    // 2. four share a row of x
    for (var u = i; u < 4u * TILE_T; u += WG) {
        let row = min(tile.t + u / 4u, tile.n - 1u) * groups * 8u;
        var most = vec4<f32>();
        for (var k = u % 4u; k < groups * 8u; k += 4u) {
            most = max(most, abs(x[row + k]));
        }
        strip[u] = max(max(most.x, most.y), max(most.z, most.w));
    }
    workgroupBarrier();
    for (var r = i; r < TILE_T; r += WG) {
        x_scale[r] = halves_scale(halves_most(r));
    }
    workgroupBarrier();
}

// Where number k of row r of a tile with `rows` rows lies.
fn halves_at(rows: u32, r: u32, k: u32) -> u32 {
    return ((k / SIDE * (rows / SIDE) + r / SIDE) * SIDE + r % SIDE) * SIDE + k % SIDE;
}

fn halves_put_w(r: u32, k: u32, v: vec4<f32>) {
    let at = halves_at(TILE_M, r, k);
    w_tile[at] = f16(v.x);
    w_tile[at + 1u] = f16(v.y);
    w_tile[at + 2u] = f16(v.z);
    w_tile[at + 3u] = f16(v.w);
}

// Fills the tiles with the groups g and g + 1.
fn halves_fill(tile: Tile, g: u32, i: u32) {
    let groups = shape.groups;
    for (var u = i; u < 2u * TILE_M; u += WG) {
        let r = u % TILE_M;
        let j = u / TILE_M;
        let s = select(0.0, w_scale[r], g + j < groups);
        let q = quant_group(min(tile.m + r, shape.m - 1u) * groups + min(g + j, groups - 1u));
        let k = 32u * j;
        halves_put_w(r, k, s * q.v0);
        halves_put_w(r, k + 4u, s * q.v1);
        halves_put_w(r, k + 8u, s * q.v2);
        halves_put_w(r, k + 12u, s * q.v3);
        halves_put_w(r, k + 16u, s * q.v4);
        halves_put_w(r, k + 20u, s * q.v5);
        halves_put_w(r, k + 24u, s * q.v6);
        halves_put_w(r, k + 28u, s * q.v7);
    }
    for (var u = i; u < 16u * TILE_T; u += WG) {
        let r = u / 16u;
        let k = u % 16u;
        let s = select(0.0, x_scale[r], g + k / 8u < groups);
        let row = min(tile.t + r, tile.n - 1u) * groups * 8u;
        let v = s * x[row + min(g * 8u + k, groups * 8u - 1u)];
        let at = halves_at(TILE_T, r, 4u * k);
        x_tile[at] = f16(v.x);
        x_tile[at + 1u] = f16(v.y);
        x_tile[at + 2u] = f16(v.z);
        x_tile[at + 3u] = f16(v.w);
    }
}

// Sums of the rows r and r + 1 of W with row c of x, both of the tile, where they exist.
fn halves_finish(tile: Tile, r: u32, c: u32, sums: vec2<f32>) {
    if tile.m + r < shape.m && tile.t + c < tile.n {
        // One after the other: the product of both inverses may be too small for an f32.
        let scaled = sums * vec2<f32>(halves_inverse(w_scale[r]), halves_inverse(w_scale[r + 1u]));
        epilogue(tile.t + c, tile.m + r, scaled * halves_inverse(x_scale[c]));
    }
}
