//! q5_k — super-blocks of 8 groups of 5-bit quants; a group has a 6-bit scale and min: w = (d · scale) · q - (dmin · min)
//!
//! qs      [N / 32]   nibbles of a group
//! qh      [N / 32]   fifth bits of a group
//! head    [N / 256]  d and dmin, f16, and the scales and mins of the groups, as src/quant/k_scales.rs packs them
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, dot, k_scale
//! exact   quant_group has the bits of the CPU where the driver does not fuse; quant_add scales once a group
//! cpu     src/quant/q5_k.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<u32>;
@group(1) @binding(2) var<storage, read> w_head: array<vec4<u32>>;

fn quant_group(g: u32) -> Group {
    let q = group_of(bytes_fives(w_qs[g], w_qh[g]));
    let dm = k_scale(w_head[g >> 3u], g);
    let m = vec4<f32>(dm.y);
    return Group(
        dm.x * q.v0 - m, dm.x * q.v1 - m, dm.x * q.v2 - m, dm.x * q.v3 - m,
        dm.x * q.v4 - m, dm.x * q.v5 - m, dm.x * q.v6 - m, dm.x * q.v7 - m,
    );
}

// Whether the two halves of a group have scales of their own.
const HALVES = false;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { qs: vec4<u32>, qh: u32 }

fn quant_read(g: u32) -> Quants {
    return Quants(w_qs[g], w_qh[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    return bytes_fives_step(q.qs[k], q.qh, k);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let b = quant_bytes(q, k);
    return vec2<f32>(dot4(b.y, high, dot4(b.x, low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return sum;
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return s;
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    let dm = k_scale(w_head[g >> 3u], column);
    return fma(dm.x, dot4_sum(s.x, x_sums.x + x_sums.y), fma(-dm.y, x_sums.x + x_sums.y, sum));
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let dm = k_scale(w_head[g >> 3u], g);
    return max(abs(dm.y), abs(31.0 * dm.x - dm.y));
}
