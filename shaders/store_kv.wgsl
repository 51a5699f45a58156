//! store_kv — writes keys and values of the rows into the KV cache of a layer. plain
//!
//! k, v    [T, N_HEAD_KV, HEAD_DIM]  f32
//! rows    [T]                       token, position, KV slot, page table
//! keys, values                      the cache, as `kv` lays it out
//! grid    (N_HEAD_KV, T) workgroups, one head each
//! group   invocation i takes elements 4i … 4i+3, 4(i+WG) …
//! const   N_HEAD_KV, HEAD_DIM, WG;  FRESH_LEN  HEAD_DIM / 2
//! import  row, page, kv, kv_store
//! tail    HEAD_DIM is a multiple of 4
//! exact   rounded by `kv_store`
//! cpu     src/backend/cpu/ops/kv.rs

override FRESH_LEN: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> keys: array<Kv>;
@group(0) @binding(4) var<storage, read_write> values: array<Kv>;

// Key and value.
var<workgroup> fresh: array<vec4<f32>, FRESH_LEN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let quads = HEAD_DIM / 4u;
    let head = (id.y * N_HEAD_KV + id.x) * quads;
    for (var d = i; d < quads; d += WG) {
        fresh[d] = k[head + d];
        fresh[quads + d] = v[head + d];
    }
    workgroupBarrier();
    let slot = rows[id.y].slot;
    kv_store((slot / PAGE_LEN * N_HEAD_KV + id.x) * KV_LEN, slot % PAGE_LEN, i);
}
