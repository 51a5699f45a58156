//! q6_k — super-blocks of 256 6-bit quants; each 16 have an 8-bit scale: w = (d · scale) · (q - 32)
//!
//! ql      [N / 32]   bits 0-3 of q, 8 vectors a super-block; two groups share two, one has the low nibbles
//! qh      [N / 64]   bits 4-5 of q, 4 vectors a super-block; four groups share two, each has two bits of every byte
//! sc      [N / 256]  scales of the 16 sub-blocks of a super-block, signed bytes
//! d       [N / 512]  scales of two super-blocks, f16
//! exports quant_group, quant_dot
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales once a sub-block
//! cpu     src/quant/q6_k.rs

@group(1) @binding(0) var<storage, read> w_ql: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<vec4<u32>>;
@group(1) @binding(2) var<storage, read> w_sc: array<vec4<u32>>;
@group(1) @binding(3) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = q6_k_quants(g);
    let d = q6_k_scale(g);
    return Group(
        d.x * q.v0, d.x * q.v1, d.x * q.v2, d.x * q.v3,
        d.y * q.v4, d.y * q.v5, d.y * q.v6, d.y * q.v7,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let q = q6_k_quants(g);
    let s = q6_k_scale(g);
    let a = q.v0 * x.v0 + q.v1 * x.v1 + q.v2 * x.v2 + q.v3 * x.v3;
    let b = q.v4 * x.v4 + q.v5 * x.v5 + q.v6 * x.v6 + q.v7 * x.v7;
    let c = s.x * a + s.y * b;
    return (c.x + c.y) + (c.z + c.w);
}

// d · scale of the two sub-blocks of group g.
fn q6_k_scale(g: u32) -> vec2<f32> {
    let block = g >> 3u;
    let pair = w_sc[block][(g >> 1u) & 3u] >> ((g & 1u) << 4u);
    return group_half(w_d[block >> 1u], block) * vec2<f32>(unpack4xI8(pair).xy);
}

// The quants of group g less 32, whole numbers.
fn q6_k_quants(g: u32) -> Group {
    // Half of a super-block has four groups: 0 and 1 are the low nibbles of its 64 bytes of ql, 2 and 3 the high ones.
    let side = g >> 2u;
    let low = 4u * side + ((g & 1u) << 1u);
    let high = 2u * side;
    let low_shift = vec4<u32>((g & 2u) << 1u);
    let high_shift = vec4<u32>((g & 3u) << 1u);
    let high_a = ((w_qh[high] >> high_shift) & vec4<u32>(0x03030303u)) << vec4<u32>(4u);
    let high_b = ((w_qh[high + 1u] >> high_shift) & vec4<u32>(0x03030303u)) << vec4<u32>(4u);
    let a = ((w_ql[low] >> low_shift) & vec4<u32>(0x0f0f0f0fu)) | high_a;
    let b = ((w_ql[low + 1u] >> low_shift) & vec4<u32>(0x0f0f0f0fu)) | high_b;
    return Group(
        group_bytes(a.x) - 32.0, group_bytes(a.y) - 32.0, group_bytes(a.z) - 32.0, group_bytes(a.w) - 32.0,
        group_bytes(b.x) - 32.0, group_bytes(b.y) - 32.0, group_bytes(b.z) - 32.0, group_bytes(b.w) - 32.0,
    );
}
