//! q5_1 — groups of 5-bit quants with a scale and an offset: w = d · q + m
//!
//! qs      [N / 32]  a group: byte i has bits 0-3 of q of weight i, in its high nibble of weight i + 16
//! qh      [N / 32]  a group: bit i is bit 4 of q of weight i
//! dm      [N / 32]  scale and offset of a group, f16
//! exports quant_group, quant_dot
//! import  group
//! exact   quant_group has the bits of the CPU where the driver does not fuse d · q + m; quant_dot scales once a group
//! cpu     src/quant/q5_1.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<u32>;
@group(1) @binding(2) var<storage, read> w_dm: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = q5_1_quants(g);
    let dm = unpack2x16float(w_dm[g]);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 + m, dm.x * q.v1 + m, dm.x * q.v2 + m, dm.x * q.v3 + m,
        dm.x * q.v4 + m, dm.x * q.v5 + m, dm.x * q.v6 + m, dm.x * q.v7 + m,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let dm = unpack2x16float(w_dm[g]);
    return dm.x * group_dot(q5_1_quants(g), x) + dm.y * x_sum;
}

// The quants of group g, whole numbers.
fn q5_1_quants(g: u32) -> Group {
    let low = w_qs[g] & vec4<u32>(0x0f0f0f0fu);
    let high = (w_qs[g] >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    let h = w_qh[g];
    return Group(
        group_bytes(low.x | q5_1_fifth(h)), group_bytes(low.y | q5_1_fifth(h >> 4u)),
        group_bytes(low.z | q5_1_fifth(h >> 8u)), group_bytes(low.w | q5_1_fifth(h >> 12u)),
        group_bytes(high.x | q5_1_fifth(h >> 16u)), group_bytes(high.y | q5_1_fifth(h >> 20u)),
        group_bytes(high.z | q5_1_fifth(h >> 24u)), group_bytes(high.w | q5_1_fifth(h >> 28u)),
    );
}

// Bits 0 to 3 of h, each as bit 4 of one byte: the product has a copy of the four bits at 4, 11, 18 and 25.
fn q5_1_fifth(h: u32) -> u32 {
    return ((h & 15u) * 0x02040810u) & 0x10101010u;
}
