//! q4_1 — groups of 4-bit quants with a scale and an offset: w = d · q + m
//!
//! qs      [N / 32]  a group: byte i has q of weight i in its low nibble, of weight i + 16 in its high one
//! dm      [N / 32]  scale and offset of a group, f16
//! exports quant_group, quant_dot
//! import  group
//! exact   quant_group has the bits of the CPU where the driver does not fuse d · q + m; quant_dot scales once a group
//! cpu     src/quant/q4_1.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_dm: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = q4_1_quants(g);
    let dm = unpack2x16float(w_dm[g]);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 + m, dm.x * q.v1 + m, dm.x * q.v2 + m, dm.x * q.v3 + m,
        dm.x * q.v4 + m, dm.x * q.v5 + m, dm.x * q.v6 + m, dm.x * q.v7 + m,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let dm = unpack2x16float(w_dm[g]);
    return dm.x * group_dot(q4_1_quants(g), x) + dm.y * x_sum;
}

// The quants of group g, whole numbers.
fn q4_1_quants(g: u32) -> Group {
    let low = w_qs[g] & vec4<u32>(0x0f0f0f0fu);
    let high = (w_qs[g] >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    return Group(
        group_bytes(low.x), group_bytes(low.y), group_bytes(low.z), group_bytes(low.w),
        group_bytes(high.x), group_bytes(high.y), group_bytes(high.z), group_bytes(high.w),
    );
}
