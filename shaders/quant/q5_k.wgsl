//! q5_k — super-blocks of 256 5-bit quants; each group has a 6-bit scale and offset: w = (d · scale) · q - (dmin · min)
//!
//! blocks  [N / 256 · 11]  as in the file, 11 a super-block: d, dmin and 12 bytes of scales; 2 of fifth bits, 8 of nibbles
//! exports quant_group, quant_dot
//! import  group
//! exact   quant_group has the bits of the CPU where the driver does not fuse; quant_dot scales once a group
//! cpu     src/quant/q5_k.rs

@group(1) @binding(0) var<storage, read> w_blocks: array<vec4<u32>>;

fn quant_group(g: u32) -> Group {
    let q = q5_k_quants(g);
    let dm = q5_k_scale(g);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 - m, dm.x * q.v1 - m, dm.x * q.v2 - m, dm.x * q.v3 - m,
        dm.x * q.v4 - m, dm.x * q.v5 - m, dm.x * q.v6 - m, dm.x * q.v7 - m,
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let dm = q5_k_scale(g);
    return dm.x * group_dot(q5_k_quants(g), x) - dm.y * x_sum;
}

// d · scale and dmin · min of group g. Byte j (< 4) of the three words has: bits 0-5 of scale j, and above them bits 4-5
// of scale j + 4; the same of min; bits 0-3 of scale j + 4, and above them of min j + 4.
fn q5_k_scale(g: u32) -> vec2<f32> {
    let head = w_blocks[11u * (g >> 3u)];
    let shift = 8u * (g & 3u);
    let scale = (head.y >> shift) & 0xffu;
    let offset = (head.z >> shift) & 0xffu;
    let low = (head.w >> shift) & 0xffu;
    let first = vec2<u32>(scale & 63u, offset & 63u);
    let second = vec2<u32>((low & 15u) | ((scale >> 2u) & 48u), (low >> 4u) | ((offset >> 2u) & 48u));
    return unpack2x16float(head.x) * vec2<f32>(select(first, second, (g & 4u) != 0u));
}

// The quants of group g, whole numbers. Two groups share 32 bytes: the even one has the low nibbles.
fn q5_k_quants(g: u32) -> Group {
    let block = 11u * (g >> 3u);
    let i = block + 3u + (g & 6u);
    let shift = vec4<u32>((g & 1u) << 2u);
    // Bit j of a byte of qh is the fifth bit of a weight of group j of the super-block.
    let fifth = vec4<u32>(g & 7u);
    let high_a = ((w_blocks[block + 1u] >> fifth) & vec4<u32>(0x01010101u)) << vec4<u32>(4u);
    let high_b = ((w_blocks[block + 2u] >> fifth) & vec4<u32>(0x01010101u)) << vec4<u32>(4u);
    let a = ((w_blocks[i] >> shift) & vec4<u32>(0x0f0f0f0fu)) | high_a;
    let b = ((w_blocks[i + 1u] >> shift) & vec4<u32>(0x0f0f0f0fu)) | high_b;
    return Group(
        group_bytes(a.x), group_bytes(a.y), group_bytes(a.z), group_bytes(a.w),
        group_bytes(b.x), group_bytes(b.y), group_bytes(b.z), group_bytes(b.w),
    );
}
