//! attention_merge — the splits of a row's attention together.
//!
//! partials  [T, N_HEAD, MAX_SPLITS, HEAD_DIM / 4 + 1]  as `attention` leaves them
//! rows      [T]                          token, position, KV slot, page table
//! y         [T, N_HEAD, HEAD_DIM]  f32
//! grid      (N_HEAD, T) workgroups
//! group     invocation i takes elements 4i … 4i+3, 4(i+WG) …
//! const     N_HEAD, HEAD_DIM, WINDOW, SPLIT, MAX_SPLITS, WG
//! import    row, page, visible
//! tail      HEAD_DIM is a multiple of 4; splits that the row has none of are not read
//! exact     f32: nmse ≤ 1e-7
//! cpu       src/backend/cpu/ops/attention.rs

override N_HEAD: u32;
override MAX_SPLITS: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let quads = HEAD_DIM / 4u;
    let at = id.y * N_HEAD + id.x;
    let first = at * MAX_SPLITS * (quads + 1u);
    let n = n_splits(rows[id.y].pos);

    // 1. the largest score of all
    var top = -1e30;
    for (var s = 0u; s < n; s++) {
        top = max(top, partials[first + s * (quads + 1u) + quads].x);
    }

    // 2. sums relative to it
    for (var d = i; d < quads; d += WG) {
        var sum = vec4<f32>();
        var total = 0.0;
        for (var s = 0u; s < n; s++) {
            let split = first + s * (quads + 1u);
            let state = partials[split + quads];
            let shrink = exp(state.x - top);
            sum = fma(vec4<f32>(shrink), partials[split + d], sum);
            total = fma(shrink, state.y, total);
        }
        y[at * quads + d] = sum / total;
    }
}
