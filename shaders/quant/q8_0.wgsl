//! q8_0 — groups of 8-bit quants with a scale: w = d · q
//!
//! qs      [N / 16]  two for a group: byte i is q of weight i, signed
//! d       [N / 64]  scales of two groups, f16
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales once a group
//! cpu     src/quant/q8_0.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = q8_0_quants(g);
    let d = group_half(w_d[g >> 1u], g);
    return Group(d * q.v0, d * q.v1, d * q.v2, d * q.v3, d * q.v4, d * q.v5, d * q.v6, d * q.v7);
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    return group_half(w_d[g >> 1u], g) * group_dot(q8_0_quants(g), x);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(128.0 * group_half(w_d[g >> 1u], g));
}

// The quants of group g, whole numbers.
fn q8_0_quants(g: u32) -> Group {
    let a = w_qs[2u * g];
    let b = w_qs[2u * g + 1u];
    return Group(
        q8_0_four(a.x), q8_0_four(a.y), q8_0_four(a.z), q8_0_four(a.w),
        q8_0_four(b.x), q8_0_four(b.y), q8_0_four(b.z), q8_0_four(b.w),
    );
}

fn q8_0_four(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}
