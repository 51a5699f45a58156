//! route — the experts with the largest logits of a row, or the largest scores, and their weights.
//!
//! x       [T, E]      f32, read as bits
//! y       [T, 2·USED] f32: numbers of experts in descending order, then their weights
//! grid    (1, T) workgroups, one row each
//! group   invocation i counts how many experts are before expert i, i+WG, …
//! const   E, USED;  NORMED  1 if scores are divided by a sum;  ALL  1 if that is of all experts, 0 if of those that are used;
//!         FACTOR;  WG
//! import  candidate, score
//! tail    nothing is assumed of E; ranks are a permutation whatever the logits, so that all numbers are those of experts
//! exact   the same experts as the CPU; weights: nmse ≤ 1e-10
//! cpu     src/backend/cpu/ops/route.rs

override E: u32;
override USED: u32;
override NORMED: u32;
override ALL: u32;
override FACTOR: f32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> logits: array<u32, E>;
var<workgroup> order: array<u32, E>;
var<workgroup> chosen: array<u32, USED>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    for (var e = i; e < E; e += WG) {
        let bits = x[id.y * E + e];
        logits[e] = bits;
        order[e] = score_order(bits, e);
    }
    workgroupBarrier();

    // 1. the rank of each expert
    for (var e = i; e < E; e += WG) {
        let mine = candidate(order[e], e);
        var rank = 0u;
        for (var f = 0u; f < E; f++) {
            rank += select(0u, 1u, is_better(candidate(order[f], f), mine));
        }
        if rank < USED {
            chosen[rank] = e;
        }
    }
    workgroupBarrier();

    // 2. scores, and their sum, which may be a sum of zeros
    let largest = bitcast<f32>(logits[chosen[0]]);
    var sum = 0.0;
    if ALL == 1u {
        for (var e = 0u; e < E; e++) {
            sum += score(logits[e], largest);
        }
    } else {
        for (var u = 0u; u < USED; u++) {
            sum += score(logits[chosen[u]], largest);
        }
    }
    let factor = FACTOR / select(1.0, max(sum, 0x1p-126f), NORMED == 1u);
    let at = id.y * 2u * USED;
    for (var u = i; u < USED; u += WG) {
        y[at + u] = f32(chosen[u]);
        y[at + USED + u] = score(logits[chosen[u]], largest) * factor;
    }
}
