//! subgroup — maxima and sums of four numbers over a workgroup, by shuffles and one exchange between subgroups.
//!
//! exports  four_max, four_sum  over the WG invocations; every one gets the result
//! const    WG  of the kernel;  SUBGROUP  the smallest subgroup of the device;  TEAMS  WG / SUBGROUP; powers of two
//! note     holds barriers: to be called in uniform control flow; works for any subgroup size ≥ SUBGROUP

override SUBGROUP: u32;
override TEAMS: u32;

var<workgroup> fours_scratch: array<vec4<f32>, TEAMS>;

fn four_max(v: vec4<f32>, i: u32) -> vec4<f32> {
    var top = v;
    for (var step = SUBGROUP / 2u; step > 0u; step >>= 1u) {
        top = max(top, subgroupShuffleXor(top, step));
    }
    if TEAMS == 1u {
        return top;
    }
    workgroupBarrier();
    if i % SUBGROUP == 0u {
        fours_scratch[i / SUBGROUP] = top;
    }
    workgroupBarrier();
    top = fours_scratch[0];
    for (var s = 1u; s < TEAMS; s++) {
        top = max(top, fours_scratch[s]);
    }
    return top;
}

fn four_sum(v: vec4<f32>, i: u32) -> vec4<f32> {
    var sum = v;
    for (var step = SUBGROUP / 2u; step > 0u; step >>= 1u) {
        sum += subgroupShuffleXor(sum, step);
    }
    if TEAMS == 1u {
        return sum;
    }
    workgroupBarrier();
    if i % SUBGROUP == 0u {
        fours_scratch[i / SUBGROUP] = sum;
    }
    workgroupBarrier();
    sum = fours_scratch[0];
    for (var s = 1u; s < TEAMS; s++) {
        sum += fours_scratch[s];
    }
    return sum;
}
