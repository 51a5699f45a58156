//! embed — y = rows of a quantized table, times a factor.
//!
//! W       [V, K]  packed blocks of `quant`; this part holds shape.m rows from shape.y_offset on
//! rows    [T]     token, position, KV slot, page table
//! y       [T, K]  f32
//! grid    (ceil(K / 32 / WG), T) workgroups
//! group   an invocation takes one group of 32 numbers
//! const   SCALE, WG
//! import  group, shape, quant, row, token, fold
//! tail    tokens outside of the part are left to the other parts; groups ≥ K / 32 are not read or written
//! exact   the same bits as the CPU where SCALE is 1
//! cpu     src/backend/cpu/ops/embed.rs

override SCALE: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let groups = shape.groups;
    let g = id.x * WG + i;
    let token = row_token(rows[id.y]);
    let row = token - shape.y_offset;
    if g < groups && token >= shape.y_offset && row < shape.m {
        let w = quant_group(row * groups + g);
        let at = (id.y * groups + g) * 8u;
        put(at, w.v0);
        put(at + 1u, w.v1);
        put(at + 2u, w.v2);
        put(at + 3u, w.v3);
        put(at + 4u, w.v4);
        put(at + 5u, w.v5);
        put(at + 6u, w.v6);
        put(at + 7u, w.v7);
    }
    fold_finish(id.x, i);
}

fn put(at: u32, v: vec4<f32>) {
    let e = v * SCALE;
    y[at] = e;
    fold_take(4u * at, e.xy, vec2<bool>(true));
    fold_take(4u * at + 2u, e.zw, vec2<bool>(true));
}
