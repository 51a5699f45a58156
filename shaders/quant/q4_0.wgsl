//! q4_0 — groups of 4-bit quants with a scale: w = d · (q - 8)
//!
//! qs      [N / 32]  a group: byte i has q of weight i in its low nibble, of weight i + 16 in its high one
//! d       [N / 64]  scales of two groups, f16
//! exports quant_group, quant_dot
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales and offsets once a group
//! cpu     src/quant/q4_0.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = q4_0_quants(g);
    let d = group_half(w_d[g >> 1u], g);
    return Group(
        d * (q.v0 - 8.0), d * (q.v1 - 8.0), d * (q.v2 - 8.0), d * (q.v3 - 8.0),
        d * (q.v4 - 8.0), d * (q.v5 - 8.0), d * (q.v6 - 8.0), d * (q.v7 - 8.0),
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    return group_half(w_d[g >> 1u], g) * (group_dot(q4_0_quants(g), x) - 8.0 * x_sum);
}

// The quants of group g, whole numbers.
fn q4_0_quants(g: u32) -> Group {
    let low = w_qs[g] & vec4<u32>(0x0f0f0f0fu);
    let high = (w_qs[g] >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    return Group(
        group_bytes(low.x), group_bytes(low.y), group_bytes(low.z), group_bytes(low.w),
        group_bytes(high.x), group_bytes(high.y), group_bytes(high.z), group_bytes(high.w),
    );
}
