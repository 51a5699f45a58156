//! q4_k — super-blocks of 8 groups of 4-bit quants; a group has a 6-bit scale and min: w = (d · scale) · q - (dmin · min)
//!
//! qs      [N / 32]   nibbles of a group
//! head    [N / 256]  d and dmin, f16, and 12 bytes of scales and mins, as in the file
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU where the driver does not fuse; quant_dot scales once a group
//! cpu     src/quant/q4_k.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_head: array<vec4<u32>>;

fn quant_group(g: u32) -> Group {
    let q = group_nibbles(w_qs[g]);
    let dm = q4_k_scale(g);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 - m, dm.x * q.v1 - m, dm.x * q.v2 - m, dm.x * q.v3 - m,
        dm.x * q.v4 - m, dm.x * q.v5 - m, dm.x * q.v6 - m, dm.x * q.v7 - m,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let dm = q4_k_scale(g);
    return dm.x * group_dot(group_nibbles(w_qs[g]), x) - dm.y * x_sum;
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let dm = q4_k_scale(g);
    return max(abs(dm.y), abs(15.0 * dm.x - dm.y));
}

// d · scale and dmin · min of group g. Byte j (< 4) of the three words has: bits 0-5 of scale j, and above them bits 4-5
// of scale j + 4; the same of min; bits 0-3 of scale j + 4, and above them of min j + 4.
fn q4_k_scale(g: u32) -> vec2<f32> {
    let head = w_head[g >> 3u];
    let shift = 8u * (g & 3u);
    let scale = (head.y >> shift) & 0xffu;
    let offset = (head.z >> shift) & 0xffu;
    let low = (head.w >> shift) & 0xffu;
    let first = vec2<u32>(scale & 63u, offset & 63u);
    let second = vec2<u32>((low & 15u) | ((scale >> 2u) & 48u), (low >> 4u) | ((offset >> 2u) & 48u));
    return unpack2x16float(head.x) * vec2<f32>(select(first, second, (g & 4u) != 0u));
}
