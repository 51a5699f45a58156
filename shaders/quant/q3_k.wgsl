//! q3_k — super-blocks of 8 groups of 3-bit quants; each 16 have a 6-bit scale: w = (d · (scale - 32)) · (q - 4)
//!
//! qs      [N / 32]       lower two bits of the quants of a group
//! qh      [N / 32]       third bits of a group
//! sc      [3 · N / 256]  scales of the sub-blocks, as src/quant/k_scales.rs packs them
//! d       [N / 512]      scales of two super-blocks, f16
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, half, dot, k_scale
//! exact   quant_group has the bits of the CPU; quant_add scales once a sub-block
//! cpu     src/quant/q3_k.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec2<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<u32>;
@group(1) @binding(2) var<storage, read> w_sc: array<u32>;
@group(1) @binding(3) var<storage, read> w_d: array<Half>;

fn quant_group(g: u32) -> Group {
    let q = group_of(bytes_threes(w_qs[g], w_qh[g]));
    let d = q3_k_scale(g, g);
    return Group(
        d.x * (q.v0 - 4.0), d.x * (q.v1 - 4.0), d.x * (q.v2 - 4.0), d.x * (q.v3 - 4.0),
        d.y * (q.v4 - 4.0), d.y * (q.v5 - 4.0), d.y * (q.v6 - 4.0), d.y * (q.v7 - 4.0),
    );
}

// Whether the two halves of a group have scales of their own.
const HALVES = true;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { qs: vec2<u32>, qh: u32 }

fn quant_read(g: u32) -> Quants {
    return Quants(w_qs[g], w_qh[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    return bytes_threes_step(q.qs[k / 2u], q.qh, k);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let b = quant_bytes(q, k);
    return vec2<f32>(dot4(b.y, high, dot4(b.x, low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return fma(q3_k_scale(g, column).x, fma(-4.0, x_sum, dot4_sum(s.x, x_sum)), sum);
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>();
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    let x_sum = x_sums.x + x_sums.y - x_half;
    return fma(q3_k_scale(g, column).y, fma(-4.0, x_sum, dot4_sum(s.x, x_sum)), sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let d = abs(4.0 * q3_k_scale(g, g));
    return max(d.x, d.y);
}

// d · (scale - 32) of the two sub-blocks of group g, which is number `i` of its row or of the matrix.
fn q3_k_scale(g: u32, i: u32) -> vec2<f32> {
    let at = 3u * (g >> 3u);
    let scales = k_pair(w_sc[at + ((i >> 2u) & 1u)], w_sc[at + 2u], i) - 32.0;
    return half_of(w_d[half_index(g >> 3u)], g >> 3u) * scales;
}
