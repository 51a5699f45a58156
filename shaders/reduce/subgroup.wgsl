//! subgroup — sum over a workgroup, by shuffles within subgroups and one exchange between them.
//!
//! exports  reduce_sum  over the WG invocations; every one gets the result
//! const    WG  of the kernel;  SUBGROUP  the smallest subgroup of the device; powers of two, SUBGROUP ≤ WG
//! note     holds barriers: to be called in uniform control flow; works for any subgroup size ≥ SUBGROUP

override SUBGROUP: u32;

// One for each subgroup is used; a size that is an expression of constants trips naga 30.
var<workgroup> reduce_scratch: array<f32, WG>;

fn reduce_sum(v: f32, i: u32) -> f32 {
    var sum = v;
    for (var step = SUBGROUP / 2u; step > 0u; step >>= 1u) {
        sum += subgroupShuffleXor(sum, step);
    }
    workgroupBarrier();
    if i % SUBGROUP == 0u {
        reduce_scratch[i / SUBGROUP] = sum;
    }
    workgroupBarrier();
    sum = 0.0;
    for (var s = 0u; s < WG / SUBGROUP; s++) {
        sum += reduce_scratch[s];
    }
    return sum;
}
