//! attention — softmax(q·Kᵀ · scale) · V for each head of each row, scores never materialized.
//!
//! q       [T, N_HEAD, HEAD_DIM]  f32
//! rows    [T]                    token, position, KV slot, page table
//! tables  page numbers, one table per sequence
//! keys, values                   the cache, as `page` lays it out
//! y       [T, N_HEAD, HEAD_DIM]  f32
//! grid    (N_HEAD, T) workgroups
//! group   WG positions at a time; for scores an invocation takes a position, for values four elements of a part of them
//! const   N_HEAD, N_HEAD_KV, HEAD_DIM, SCALE;  WINDOW, SOFTCAP  0 for none;  WG  a power of two ≥ HEAD_DIM / 4
//! import  row, page, kv, reduce
//! tail    HEAD_DIM is a multiple of 4; positions that the row may not see have probability 0 and are not read
//! exact   f32, online softmax: nmse ≤ 1e-7 (≤ 1e-5 with f16 keys and values)
//! cpu     src/backend/cpu/ops/attention.rs

override N_HEAD: u32;
override SCALE: f32;
override WINDOW: u32;
override SOFTCAP: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> keys: array<Kv4>;
@group(0) @binding(4) var<storage, read> values: array<Kv4>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

// Finite, since fast-math compilers may assume that there is no infinity.
const LOW = -1e30;

// HEAD_DIM / 4 are used; a size that is an expression of constants trips naga 30.
var<workgroup> query: array<vec4<f32>, WG>;
var<workgroup> weight: array<f32, WG>;
var<workgroup> place: array<u32, WG>;
var<workgroup> part: array<vec4<f32>, WG>;

fn score(slot: u32, head: u32) -> f32 {
    var sum = vec4<f32>();
    for (var d = 0u; d < HEAD_DIM / 4u; d++) {
        sum = fma(query[d], kv_unpack(keys[key_at(slot, head, d)]), sum);
    }
    let s = sum.x + sum.y + sum.z + sum.w;
    if SOFTCAP > 0.0 {
        return SOFTCAP * tanh(clamp(s / SOFTCAP, -15.0, 15.0));
    }
    return s;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let quads = HEAD_DIM / 4u;
    let row = rows[id.y];
    let head = id.x / (N_HEAD / N_HEAD_KV);
    let at = (id.y * N_HEAD + id.x) * quads;
    var first = 0u;
    if WINDOW > 0u && row.pos >= WINDOW {
        first = row.pos - WINDOW + 1u;
    }
    for (var d = i; d < quads; d += WG) {
        query[d] = q[at + d] * SCALE;
    }
    workgroupBarrier();

    // Invocation i sums element quad i % quads over positions i / quads, i / quads + parts, … of each tile.
    let parts = WG / quads;
    let quad = i % quads;
    var top = LOW;
    var total = 0.0;
    var sum = vec4<f32>();
    for (var start = first / WG * WG; start <= row.pos; start += WG) {
        // 1. scores of WG positions
        let pos = start + i;
        let seen = pos >= first && pos <= row.pos;
        var s = LOW;
        var slot = 0u;
        if seen {
            slot = tables[row.table + pos / PAGE_LEN] * PAGE_LEN + pos % PAGE_LEN;
            s = score(slot, head);
        }

        // 2. their weights, relative to the largest score so far
        let new_top = max(top, reduce_max(s, i));
        let shrink = exp(top - new_top);
        let p = select(0.0, exp(s - new_top), seen);
        total = total * shrink + p;
        sum *= shrink;
        top = new_top;
        weight[i] = p;
        place[i] = slot;
        workgroupBarrier();

        // 3. values, weighted
        let n = min(WG, row.pos - start + 1u);
        if i < parts * quads {
            for (var j = i / quads; j < n; j += parts) {
                if start + j >= first {
                    sum = fma(vec4<f32>(weight[j]), kv_unpack(values[value_at(place[j], head, quad)]), sum);
                }
            }
        }
        workgroupBarrier();
    }

    // 4. the parts together
    total = reduce_sum(total, i);
    part[i] = sum;
    workgroupBarrier();
    if i < quads {
        for (var j = 1u; j < parts; j++) {
            sum += part[j * quads + i];
        }
        y[at + i] = sum / total;
    }
}
