//! rope_kv — q, k and v of the rows: heads normalized, rotated, q kept and k, v stored in the KV cache.
//!
//! q       [T, Q_STRIDE]  f32, heads from Q_OFFSET on;  k, v the same with K_…, V_…
//! rows    [T]            token, position, KV slot, page table
//! angles  [T, N_ROT / 2] cosine and sine, scaled
//! y       [T, N_HEAD, HEAD_DIM]  f32, q when done
//! keys, values           the cache, as `kv` lays it out
//! grid    (N_HEAD + N_HEAD_KV, T) workgroups: q heads, then k heads with their v
//! group   invocation i takes elements i, i+WG, …; a head meets in workgroup memory
//! const   N_HEAD, N_HEAD_KV, HEAD_DIM, N_ROT, NEOX, *_STRIDE, *_OFFSET, WG;  FRESH_LEN  HEAD_DIM / 2
//! import  row, page, kv, kv_store, turn, reduce
//! tail    HEAD_DIM is a multiple of 4; elements ≥ N_ROT are not rotated
//! exact   f32; k and v rounded by `kv_store`
//! cpu     src/backend/cpu/ops/rope.rs

override N_HEAD: u32;
override Q_STRIDE: u32;
override Q_OFFSET: u32;
override K_STRIDE: u32;
override K_OFFSET: u32;
override V_STRIDE: u32;
override V_OFFSET: u32;
override FRESH_LEN: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<Row>;
@group(0) @binding(4) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> keys: array<Kv>;
@group(0) @binding(7) var<storage, read_write> values: array<Kv>;

var<workgroup> head: array<f32, HEAD_DIM>;
// Key and value when done.
var<workgroup> fresh: array<vec4<f32>, FRESH_LEN>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let t = id.y;
    let is_q = id.x < N_HEAD;
    let h = select(id.x - N_HEAD, id.x, is_q);

    // 1. the head as it is, and the sum of its squares
    var squares = 0.0;
    for (var d = i; d < HEAD_DIM; d += WG) {
        var e = 0.0;
        if is_q {
            e = q[t * Q_STRIDE + Q_OFFSET + h * HEAD_DIM + d];
        } else {
            e = k[t * K_STRIDE + K_OFFSET + h * HEAD_DIM + d];
        }
        squares += e * e;
        head[d] = e;
    }
    if HEAD_NORM {
        squares = reduce_sum(squares, i);
    }
    let scale = head_scale(squares);
    workgroupBarrier();

    // 2. normalized and rotated, four elements at a time
    for (var d = i; d < HEAD_DIM / 4u; d += WG) {
        let e = turned_quad(0u, d, is_q, t * (N_ROT / 2u)) * scale;
        if is_q {
            y[(t * N_HEAD + h) * (HEAD_DIM / 4u) + d] = e;
        } else {
            let o = t * V_STRIDE + V_OFFSET + h * HEAD_DIM + 4u * d;
            fresh[d] = e;
            fresh[HEAD_DIM / 4u + d] = vec4<f32>(v[o], v[o + 1u], v[o + 2u], v[o + 3u]);
        }
    }

    // 3. stored
    workgroupBarrier();
    if !is_q {
        let slot = rows[t].slot;
        kv_store((slot / PAGE_LEN * N_HEAD_KV + h) * KV_LEN, slot % PAGE_LEN, i);
    }
}
