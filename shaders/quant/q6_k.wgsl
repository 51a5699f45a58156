//! q6_k — super-blocks of 8 groups of 6-bit quants; each 16 have an 8-bit scale: w = (d · scale) · (q - 32)
//!
//! ql      [N / 32]   nibbles of a group
//! qh      [N / 32]   fifth and sixth bits of a group
//! sc      [N / 64]   scales of the four sub-blocks of two groups, signed bytes
//! d       [N / 512]  scales of two super-blocks, f16
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   quant_group has the bits of the CPU; quant_dot scales once a sub-block
//! cpu     src/quant/q6_k.rs

@group(1) @binding(0) var<storage, read> w_ql: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<vec2<u32>>;
@group(1) @binding(2) var<storage, read> w_sc: array<u32>;
@group(1) @binding(3) var<storage, read> w_d: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = group_sixes(w_ql[g], w_qh[g]);
    let d = q6_k_scale(g);
    return Group(
        d.x * (q.v0 - 32.0), d.x * (q.v1 - 32.0), d.x * (q.v2 - 32.0), d.x * (q.v3 - 32.0),
        d.y * (q.v4 - 32.0), d.y * (q.v5 - 32.0), d.y * (q.v6 - 32.0), d.y * (q.v7 - 32.0),
    );
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    let q = group_sixes(w_ql[g], w_qh[g]);
    let d = q6_k_scale(g);
    // x_sum is of no use: the sub-blocks have scales of their own, and their sums of x are four additions away.
    let a = q.v0 * x.v0 + q.v1 * x.v1 + q.v2 * x.v2 + q.v3 * x.v3 - 32.0 * ((x.v0 + x.v1) + (x.v2 + x.v3));
    let b = q.v4 * x.v4 + q.v5 * x.v5 + q.v6 * x.v6 + q.v7 * x.v7 - 32.0 * ((x.v4 + x.v5) + (x.v6 + x.v7));
    let s = d.x * a + d.y * b;
    return (s.x + s.y) + (s.z + s.w);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let d = abs(32.0 * q6_k_scale(g));
    return max(d.x, d.y);
}

// d · scale of the two sub-blocks of group g.
fn q6_k_scale(g: u32) -> vec2<f32> {
    let scales = unpack4xI8(w_sc[g >> 1u] >> ((g & 1u) << 4u)).xy;
    return group_half(w_d[g >> 4u], g >> 3u) * vec2<f32>(scales);
}
