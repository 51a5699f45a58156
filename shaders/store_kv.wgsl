//! store_kv — writes keys and values of the rows into the KV cache of a layer. plain
//!
//! k, v    [T, N_HEAD_KV, HEAD_DIM]  f32
//! rows    [T]                       token, position, KV slot, page table
//! keys, values                      the cache, as `page` lays it out
//! grid    (N_HEAD_KV, T) workgroups, one head each
//! group   invocation i takes elements 4i … 4i+3, 4(i+WG) …
//! const   N_HEAD_KV, HEAD_DIM, WG
//! import  row, page, kv
//! tail    HEAD_DIM is a multiple of 4
//! exact   rounded by `kv`
//! cpu     src/backend/cpu/ops/kv.rs

override WG: u32;

@group(0) @binding(0) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> keys: array<Kv4>;
@group(0) @binding(4) var<storage, read_write> values: array<Kv4>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let slot = rows[id.y].slot;
    let head = (id.y * N_HEAD_KV + id.x) * (HEAD_DIM / 4u);
    for (var d = i; d < HEAD_DIM / 4u; d += WG) {
        keys[key_at(slot, id.x, d)] = kv_pack(k[head + d]);
        values[value_at(slot, id.x, d)] = kv_pack(v[head + d]);
    }
}
