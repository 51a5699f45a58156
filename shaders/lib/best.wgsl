//! best — the best candidate of a workgroup.
//!
//! exports  best_of_workgroup  over the WG invocations; the first one gets the result
//! const    WG  of the kernel: a power of two
//! import   candidate
//! note     holds barriers: to be called once, in uniform control flow

var<workgroup> best_scratch: array<Candidate, WG>;

fn best_of_workgroup(mine: Candidate, i: u32) -> Candidate {
    best_scratch[i] = mine;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i < half && is_better(best_scratch[i + half], best_scratch[i]) {
            best_scratch[i] = best_scratch[i + half];
        }
    }
    return best_scratch[i];
}
