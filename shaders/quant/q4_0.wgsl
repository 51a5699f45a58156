//! q4_0 — groups of 4-bit quants with a scale: w = d · (q - 8)
//!
//! qs      [N / 32]   nibbles of a group
//! d       [N / 64]   scales of two groups, f16
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales and offsets once a group
//! cpu     src/quant/q4_0.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = group_nibbles(w_qs[g]);
    let d = group_half(w_d[g >> 1u], g);
    return Group(
        d * (q.v0 - 8.0), d * (q.v1 - 8.0), d * (q.v2 - 8.0), d * (q.v3 - 8.0),
        d * (q.v4 - 8.0), d * (q.v5 - 8.0), d * (q.v6 - 8.0), d * (q.v7 - 8.0),
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    return group_half(w_d[g >> 1u], g) * (group_dot(group_nibbles(w_qs[g]), x) - 8.0 * x_sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(8.0 * group_half(w_d[g >> 1u], g));
}
