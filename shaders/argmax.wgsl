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

/// Ids ascend, so that an equal one later is no better.
fn better(best: Candidate, other: Candidate) -> Candidate {
    if other.key > best.key {
        return other;
    }
    return best;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    let last = min((id.x + 1u) * SLICE, D) - 1u;
    var best = NONE;
    // Four at a time, so that their loads are under way together; the last one may be looked at more than once.
    for (var d = id.x * SLICE + i; d <= last; d += 4u * WG) {
        let at = min(vec4<u32>(d, d + WG, d + 2u * WG, d + 3u * WG), vec4<u32>(last));
        let row = id.y * D;
        let bits = vec4<u32>(x[row + at.x], x[row + at.y], x[row + at.z], x[row + at.w]);
        best = better(best, candidate(bits.x, at.x));
        best = better(best, candidate(bits.y, at.y));
        best = better(best, candidate(bits.z, at.z));
        best = better(best, candidate(bits.w, at.w));
    }
    best = best_of_workgroup(best, i);
    if i == 0u {
        y[id.y * SLICES + id.x] = best;
    }
}
