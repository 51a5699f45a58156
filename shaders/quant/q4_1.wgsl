//! q4_1 — groups of 4-bit quants with a scale and an offset: w = d · q + m
//!
//! qs      [N / 32]   nibbles of a group
//! dm      [N / 32]   scale and offset of a group, f16
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU where the driver does not fuse d · q + m; quant_dot scales once a group
//! cpu     src/quant/q4_1.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_dm: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = group_nibbles(w_qs[g]);
    let dm = unpack2x16float(w_dm[g]);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 + m, dm.x * q.v1 + m, dm.x * q.v2 + m, dm.x * q.v3 + m,
        dm.x * q.v4 + m, dm.x * q.v5 + m, dm.x * q.v6 + m, dm.x * q.v7 + m,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let dm = unpack2x16float(w_dm[g]);
    return dm.x * group_dot(group_nibbles(w_qs[g]), x) + dm.y * x_sum;
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let dm = unpack2x16float(w_dm[g]);
    return max(abs(dm.y), abs(15.0 * dm.x + dm.y));
}
