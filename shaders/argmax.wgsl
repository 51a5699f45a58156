//! argmax — the index of the largest number of each row; of equal ones the lowest.
//!
//! x       [N, D]  f32
//! y       [N]     indices
//! grid    (1, N) workgroups, one row each
//! group   invocation i takes elements i, i+WG, …
//! const   D;  WG  a power of two
//! import
//! tail    nothing is assumed of D
//! exact   the same index as the CPU; a row of NaN gives 0
//! cpu     src/backend/cpu/ops/argmax.rs

override D: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

struct Best { value: f32, index: u32 }

var<workgroup> scratch: array<Best, WG>;

fn better(a: Best, b: Best) -> bool {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    // 1. the best of the invocation's elements, in ascending order
    var best = Best(-3.4e38, 0u);
    for (var d = i; d < D; d += WG) {
        let value = x[id.y * D + d];
        if value > best.value {
            best = Best(value, d);
        }
    }

    // 2. the best of the workgroup
    scratch[i] = best;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i < half && better(scratch[i + half], scratch[i]) {
            scratch[i] = scratch[i + half];
        }
    }
    if i == 0u {
        y[id.y] = scratch[0].index;
    }
}
