//! sample — draws the token of each row from its slices' candidates: top-k, top-p, min-p, temperature.
//!
//! x       [N, SLICES · K_MOST]  candidates: k of each slice, one slice behind the other, as `top_k` writes them
//! draws   [N]     how each row's token is drawn
//! y       [N]     token ids, NO_TOKEN where a logit is not a number or the largest is infinite
//! grid    (1, N) workgroups, one row each
//! group   invocation i takes candidates i, i+WG, …
//! const   SLICES;  WG
//! import  candidate, select, draw
//! tail    missing candidates have no weight
//! exact   the same token as the CPU: all arithmetic is in integers
//! cpu     src/backend/draw.rs

override SLICES: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<Candidate>;
@group(0) @binding(1) var<storage, read> draws: array<Draw>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

var<workgroup> n_selected: atomic<u32>;
/// The k best, as they come and then sorted.
var<workgroup> selected: array<Candidate, K_MOST>;
var<workgroup> sorted: array<Candidate, K_MOST>;
/// Weights at temperature 1, and at that of the draw.
var<workgroup> plain: array<u32, K_MOST>;
var<workgroup> heated: array<u32, K_MOST>;
var<private> start: u32;

fn element(j: u32) -> Candidate {
    return x[start + j];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    start = id.y * SLICES * K_MOST;
    let draw = draws[id.y];
    let k = draw.k;
    if i == 0u {
        atomicStore(&n_selected, 0u);
    }
    for (var s = i; s < k; s += WG) {
        selected[s] = NONE;
    }

    // 1. the k best of all slices
    let n = SLICES * k;
    let selection = select_best(n, k, i);
    for (var j = i; j < n; j += WG) {
        let c = element(j);
        if is_selected(c, selection) {
            selected[atomicAdd(&n_selected, 1u)] = c;
        }
    }
    workgroupBarrier();

    // 2. sorted; missing ones stay behind, in any order
    for (var s = i; s < k; s += WG) {
        let c = selected[s];
        var place = 0u;
        for (var t = 0u; t < k; t++) {
            place += select(0u, 1u, is_better(selected[t], c) || (selected[t].key == 0u && c.key == 0u && t < s));
        }
        sorted[place] = c;
    }
    workgroupBarrier();

    // 3. weights for top-p
    let best = sorted[0].key;
    for (var s = i; s < k; s += WG) {
        plain[s] = select(weight(distance(best, sorted[s].key, ONE)), 0u, sorted[s].key == 0u);
    }
    workgroupBarrier();

    // 4. weights for the draw of those that top-p and min-p leave
    for (var s = i; s < k; s += WG) {
        var before = vec2<u32>(0u);
        var total = vec2<u32>(0u);
        for (var t = 0u; t < k; t++) {
            if t == s {
                before = total;
            }
            total = sum_add(total, plain[t]);
        }
        let key = sorted[s].key;
        let in_top_p = draw.top_p == 0u || s == 0u || sum_less(before, part(total, draw.top_p));
        let stays = key != 0u && in_top_p && distance(best, key, ONE) <= draw.min_p;
        heated[s] = select(0u, weight(distance(best, key, draw.scale)), stays);
    }
    workgroupBarrier();

    // 5. the one whose part of the total holds the random number
    for (var s = i; s < k; s += WG) {
        var before = vec2<u32>(0u);
        var total = vec2<u32>(0u);
        for (var t = 0u; t < k; t++) {
            if t == s {
                before = total;
            }
            total = sum_add(total, heated[t]);
        }
        let drawn = part(total, draw.random);
        if !sum_less(drawn, before) && sum_less(drawn, sum_add(before, heated[s])) {
            y[id.y] = sorted[s].id;
        }
    }

    // 6. or none: then no candidate has any weight
    if i == 0u && !is_finite(best) {
        y[id.y] = NO_TOKEN;
    }
}
