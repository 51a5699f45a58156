//! embed — y = rows of a quantized table, times a factor.
//!
//! W       [V, K]  packed blocks of `quant`; this part holds ROWS rows from ROW0 on
//! rows    [T]     token, position, KV slot, page table
//! y       [T, K]  f32
//! grid    (ceil(K / 32 / WG), T) workgroups
//! group   an invocation takes one group of 32 numbers
//! const   K, SCALE, ROW0, ROWS, WG
//! import  group, quant, row, token
//! tail    tokens outside of the part are left to the other parts; groups ≥ K / 32 are not read or written
//! exact   the same bits as the CPU where SCALE is 1
//! cpu     src/backend/cpu/ops/embed.rs

override K: u32;
override SCALE: f32;
override ROW0: u32;
override ROWS: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let groups = K / 32u;
    let g = id.x * WG + i;
    let token = row_token(rows[id.y]);
    if g >= groups || token < ROW0 || token - ROW0 >= ROWS {
        return;
    }
    let w = quant_group((token - ROW0) * groups + g);
    let at = (id.y * groups + g) * 8u;
    y[at] = w.v0 * SCALE;
    y[at + 1u] = w.v1 * SCALE;
    y[at + 2u] = w.v2 * SCALE;
    y[at + 3u] = w.v3 * SCALE;
    y[at + 4u] = w.v4 * SCALE;
    y[at + 5u] = w.v5 * SCALE;
    y[at + 6u] = w.v6 * SCALE;
    y[at + 7u] = w.v7 * SCALE;
}
