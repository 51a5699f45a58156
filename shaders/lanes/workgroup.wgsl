//! workgroup — sums over the lanes of a team, through workgroup memory.
//!
//! exports  lanes_sum, lanes_total  sums over the LANES invocations of a team; its first lane gets them
//! const    WG, LANES  of the kernel: powers of two, LANES ≤ WG
//! note     holds barriers: to be called in uniform control flow

var<workgroup> lanes_scratch: array<vec4<f32>, WG>;

fn lanes_sum(v: vec4<f32>, i: u32) -> vec4<f32> {
    if LANES == 1u {
        return v;
    }
    workgroupBarrier();
    lanes_scratch[i] = v;
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if i % LANES < half {
            lanes_scratch[i] += lanes_scratch[i + half];
        }
    }
    return lanes_scratch[i];
}

fn lanes_total(v: f32, i: u32) -> f32 {
    return lanes_sum(vec4<f32>(v), i).x;
}
