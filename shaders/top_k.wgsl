//! top_k — the k most likely candidates of each slice of each row of logits.
//!
//! x       [N, D]  f32, read as bits
//! draws   [N]     how each row's token is drawn, k among it
//! y       [N, SLICES · K_MOST]  candidates: k of each slice, one slice behind the other, in any order; NONE where a slice has less
//! grid    (SLICES, N) workgroups, a slice each
//! group   invocation i takes elements i, i+WG, … of the slice
//! const   D;  SLICE  elements in a slice;  SLICES  D / SLICE, rounded up;  WG
//! import  candidate, select, draw
//! tail    the last slice ends with the row
//! exact   the same candidates as the CPU; what is not a number is the most likely one, for `sample` to see
//! cpu     src/backend/draw.rs

override D: u32;
override SLICE: u32;
override SLICES: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> draws: array<Draw>;
@group(0) @binding(2) var<storage, read_write> y: array<Candidate>;

var<workgroup> n_selected: atomic<u32>;
var<private> row: u32;
var<private> start: u32;

fn element(j: u32) -> Candidate {
    return candidate(x[row * D + start + j], start + j);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    row = id.y;
    start = id.x * SLICE;
    let n = min(SLICE, D - start);
    let k = draws[row].k;
    if i == 0u {
        atomicStore(&n_selected, 0u);
    }

    // 1. which they are
    let selection = select_best(n, k, i);

    // 2. together, those that are missing behind them
    let at = row * SLICES * K_MOST + id.x * k;
    for (var j = i; j < n; j += WG) {
        let c = element(j);
        if is_selected(c, selection) {
            y[at + atomicAdd(&n_selected, 1u)] = c;
        }
    }
    workgroupBarrier();
    for (var j = atomicLoad(&n_selected) + i; j < k; j += WG) {
        y[at + j] = NONE;
    }
}
