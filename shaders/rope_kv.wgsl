//! rope_kv — q, k and v of the rows: heads normalized, rotated, q kept and k, v stored in the KV cache.
//!
//! q       [T, Q_STRIDE]  f32, heads from Q_OFFSET on;  k, v the same with K_…, V_…
//! rows    [T]            token, position, KV slot, page table
//! angles  [T, N_ROT / 2] cosine and sine, scaled
//! y       [T, N_HEAD, HEAD_DIM]  f32, q when done
//! keys, values           the cache, as `page` lays it out
//! grid    (N_HEAD + N_HEAD_KV, T) workgroups: q heads, then k heads with their v
//! group   invocation i takes elements i, i+WG, …; a head meets in workgroup memory
//! const   N_HEAD, N_HEAD_KV, HEAD_DIM, N_ROT, NEOX, *_STRIDE, *_OFFSET, WG
//! import  row, page, kv, head_norm
//! tail    HEAD_DIM is a multiple of 4; elements ≥ N_ROT are not rotated
//! exact   f32; k and v rounded by `kv`
//! cpu     src/backend/cpu/ops/rope.rs

override N_HEAD: u32;
override N_ROT: u32;
override NEOX: u32;
override Q_STRIDE: u32;
override Q_OFFSET: u32;
override K_STRIDE: u32;
override K_OFFSET: u32;
override V_STRIDE: u32;
override V_OFFSET: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<Row>;
@group(0) @binding(4) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> keys: array<Kv4>;
@group(0) @binding(7) var<storage, read_write> values: array<Kv4>;

var<workgroup> head: array<f32, HEAD_DIM>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let t = id.y;
    let is_q = id.x < N_HEAD;
    let h = select(id.x - N_HEAD, id.x, is_q);

    // 1. the head, and the sum of its squares
    var squares = 0.0;
    for (var d = i; d < HEAD_DIM; d += WG) {
        var e = 0.0;
        if is_q {
            e = q[t * Q_STRIDE + Q_OFFSET + h * HEAD_DIM + d];
        } else {
            e = k[t * K_STRIDE + K_OFFSET + h * HEAD_DIM + d];
        }
        squares += e * e;
        head[d] = e * head_weight(is_q, d);
    }
    let scale = head_scale(squares, i);
    workgroupBarrier();

    // 2. rotated in place: each pair belongs to one invocation
    for (var pair = i; pair < N_ROT / 2u; pair += WG) {
        let a = select(2u * pair, pair, NEOX == 1u);
        let b = a + select(1u, N_ROT / 2u, NEOX == 1u);
        let turn = angles[t * (N_ROT / 2u) + pair];
        let ea = head[a];
        let eb = head[b];
        head[a] = ea * turn.x - eb * turn.y;
        head[b] = ea * turn.y + eb * turn.x;
    }
    workgroupBarrier();

    // 3. written, four elements at a time
    let slot = rows[t].slot;
    for (var d = i; d < HEAD_DIM / 4u; d += WG) {
        let e = vec4<f32>(head[4u * d], head[4u * d + 1u], head[4u * d + 2u], head[4u * d + 3u]) * scale;
        if is_q {
            y[(t * N_HEAD + h) * (HEAD_DIM / 4u) + d] = e;
        } else {
            let o = t * V_STRIDE + V_OFFSET + h * HEAD_DIM + 4u * d;
            keys[key_at(slot, h, d)] = kv_pack(e);
            values[value_at(slot, h, d)] = kv_pack(vec4<f32>(v[o], v[o + 1u], v[o + 2u], v[o + 3u]));
        }
    }
}
