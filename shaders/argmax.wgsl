//! argmax — the most likely candidate of each slice of each row of logits.
//!
//! x       [N, D]  f32, read as bits
//! y       [N, SLICES]  candidates
//! grid    (SLICES, N) workgroups, a slice each, so that all of a GPU looks at 262,144 logits
//! group   invocation i takes elements i, i+WG, … of the slice
//! const   D;  SLICE  elements in a slice;  SLICES  D / SLICE, rounded up;  WG  a power of two
//! import  candidate, best
//! tail    the last slice ends with the row
//! exact   the same candidates as the CPU; what is not a number is the most likely one, for `argmax_merge` to see
//! cpu     src/backend/draw.rs

override D: u32;
override SLICE: u32;
override SLICES: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<Candidate>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let end = min((id.x + 1u) * SLICE, D);
    var best = NONE;
    for (var d = id.x * SLICE + i; d < end; d += WG) {
        let other = candidate(x[id.y * D + d], d);
        if other.key > best.key {
            best = other;
        }
    }
    best = best_of_workgroup(best, i);
    if i == 0u {
        y[id.y * SLICES + id.x] = best;
    }
}
