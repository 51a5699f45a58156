//! argmax_merge — the token of each row: the best of its slices' candidates.
//!
//! x       [N, SLICES]  candidates
//! y       [N]     token ids, NO_TOKEN where a logit is not a number or the largest is infinite
//! grid    (1, N) workgroups, one row each
//! group   invocation i takes candidates i, i+WG, …
//! const   SLICES;  WG  a power of two
//! import  candidate, best
//! tail    nothing is assumed of SLICES
//! exact   the same token as the CPU
//! cpu     src/backend/draw.rs

override SLICES: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<Candidate>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    var best = NONE;
    for (var s = i; s < SLICES; s += WG) {
        let other = x[id.y * SLICES + s];
        if is_better(other, best) {
            best = other;
        }
    }
    best = best_of_workgroup(best, i);
    if i == 0u {
        y[id.y] = select(NO_TOKEN, best.id, is_finite(best.key));
    }
}
