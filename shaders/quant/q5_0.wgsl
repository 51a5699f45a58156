//! q5_0 — groups of 5-bit quants with a scale: w = d · (q - 16)
//!
//! qs      [N / 32]   nibbles of a group
//! qh      [N / 32]   fifth bits of a group
//! d       [N / 64]   scales of two groups, f16
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales and offsets once a group
//! cpu     src/quant/q5_0.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<u32>;
@group(1) @binding(2) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = group_fives(w_qs[g], w_qh[g]);
    let d = group_half(w_d[g >> 1u], g);
    return Group(
        d * (q.v0 - 16.0), d * (q.v1 - 16.0), d * (q.v2 - 16.0), d * (q.v3 - 16.0),
        d * (q.v4 - 16.0), d * (q.v5 - 16.0), d * (q.v6 - 16.0), d * (q.v7 - 16.0),
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    return group_half(w_d[g >> 1u], g) * (group_dot(group_fives(w_qs[g], w_qh[g]), x) - 16.0 * x_sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(16.0 * group_half(w_d[g >> 1u], g));
}
