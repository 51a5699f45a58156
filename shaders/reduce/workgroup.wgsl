//! workgroup — sum over a workgroup, through workgroup memory.
//!
//! exports  reduce_sum  over the WG invocations; every one gets the result
//! const    WG  of the kernel: a power of two
//! note     holds barriers: to be called in uniform control flow

var<workgroup> reduce_scratch: array<f32, WG>;

fn reduce_sum(v: f32, i: u32) -> f32 {
    workgroupBarrier();
    reduce_scratch[i] = v;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i < half {
            reduce_scratch[i] += reduce_scratch[i + half];
        }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}
