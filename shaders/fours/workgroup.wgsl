//! workgroup — maxima and sums of four numbers over a workgroup, through workgroup memory.
//!
//! exports  four_max, four_sum  over the WG invocations; every one gets the result
//! const    WG  of the kernel: a power of two
//! note     holds barriers: to be called in uniform control flow

var<workgroup> fours_scratch: array<vec4<f32>, WG>;

fn four_max(v: vec4<f32>, i: u32) -> vec4<f32> {
    workgroupBarrier();
    fours_scratch[i] = v;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i < half {
            fours_scratch[i] = max(fours_scratch[i], fours_scratch[i + half]);
        }
    }
    workgroupBarrier();
    return fours_scratch[0];
}

fn four_sum(v: vec4<f32>, i: u32) -> vec4<f32> {
    workgroupBarrier();
    fours_scratch[i] = v;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i < half {
            fours_scratch[i] += fours_scratch[i + half];
        }
    }
    workgroupBarrier();
    return fours_scratch[0];
}
