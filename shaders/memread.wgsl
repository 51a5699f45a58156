//! memread — reads memory as fast as the device can, to tell how fast that is.
//!
//! x       [N]     vectors of 16 bytes
//! y       [G]     a number per workgroup, so that no read can be left out
//! grid    G workgroups; a stride of the grid is G · WG vectors
//! group   invocation i of workgroup g takes vectors g·WG + i, and every stride after it, four strides at a time
//! const   WG, STRIDES  vectors that an invocation reads, a multiple of four
//! import
//! tail    N = G · WG · STRIDES: none
//! exact   yes
//! cpu     src/backend/gpu/profile.rs

override WG: u32;
override STRIDES: u32;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<atomic<u32>>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let stride = count.x * WG;
    var at = id.x * WG + i;
    var a = vec4<u32>();
    var b = vec4<u32>();
    var c = vec4<u32>();
    var d = vec4<u32>();
    for (var s = 0u; s < STRIDES; s += 4u) {
        a ^= x[at];
        b ^= x[at + stride];
        c ^= x[at + 2u * stride];
        d ^= x[at + 3u * stride];
        at += 4u * stride;
    }
    let e = (a ^ b) ^ (c ^ d);
    atomicXor(&y[id.x], e.x ^ e.y ^ e.z ^ e.w);
}
