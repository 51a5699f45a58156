//! subgroup — sums over the lanes of a team, by shuffles.
//!
//! exports  lanes_sum, lanes_total  sums over the LANES invocations of a team; every lane gets them
//! const    LANES      of the kernel: a power of two, at most the smallest subgroup of the device
//! note     invocations of a workgroup fill subgroups in order, as every GPU does for one-dimensional workgroups;
//!          a team then lies within one subgroup of any size

fn lanes_sum(v: vec4<f32>, i: u32) -> vec4<f32> {
    var sum = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}

fn lanes_total(v: f32, i: u32) -> f32 {
    var sum = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}
