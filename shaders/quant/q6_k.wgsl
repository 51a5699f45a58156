//! q6_k — super-blocks of 8 groups of 6-bit quants; each 16 have an 8-bit scale: w = (d · scale) · (q - 32)
//!
//! ql      [N / 32]   nibbles of a group
//! qh      [N / 32]   fifth and sixth bits of a group
//! sc      [N / 64]   scales of the four sub-blocks of two groups, signed bytes
//! d       [N / 512]  scales of two super-blocks, f16
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, half, dot
//! exact   quant_group has the bits of the CPU; quant_add scales once a sub-block
//! cpu     src/quant/q6_k.rs

@group(1) @binding(0) var<storage, read> w_ql: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<vec2<u32>>;
@group(1) @binding(2) var<storage, read> w_sc: array<u32>;
@group(1) @binding(3) var<storage, read> w_d: array<Half>;

fn quant_group(g: u32) -> Group {
    let q = group_of(bytes_sixes(w_ql[g], w_qh[g]));
    let d = q6_k_scale(g, g);
    return Group(
        d.x * (q.v0 - 32.0), d.x * (q.v1 - 32.0), d.x * (q.v2 - 32.0), d.x * (q.v3 - 32.0),
        d.y * (q.v4 - 32.0), d.y * (q.v5 - 32.0), d.y * (q.v6 - 32.0), d.y * (q.v7 - 32.0),
    );
}

// Whether the two halves of a group have scales of their own.
const HALVES = true;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { ql: vec4<u32>, qh: vec2<u32> }

fn quant_read(g: u32) -> Quants {
    return Quants(w_ql[g], w_qh[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    // The fifth and sixth bits of two steps are in a word, four of each byte for one; they belong to 4.
    let h = q.qh[k / 2u];
    let h_low = select(h << 4u, h, k % 2u == 1u);
    let h_high = select(h << 2u, h >> 2u, k % 2u == 1u);
    let a = (q.ql[k] & 0x0f0f0f0fu) | (h_low & 0x30303030u);
    let b = ((q.ql[k] >> 4u) & 0x0f0f0f0fu) | (h_high & 0x30303030u);
    return vec2<u32>(a, b);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let b = quant_bytes(q, k);
    return vec2<f32>(dot4(b.y, high, dot4(b.x, low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return fma(q6_k_scale(g, column).x, fma(-32.0, x_sum, dot4_sum(s.x, x_sum)), sum);
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>();
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    let x_sum = x_sums.x + x_sums.y - x_half;
    return fma(q6_k_scale(g, column).y, fma(-32.0, x_sum, dot4_sum(s.x, x_sum)), sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let d = abs(32.0 * q6_k_scale(g, g));
    return max(d.x, d.y);
}

// d · scale of the two sub-blocks of group g, which is number `i` of its row or of the matrix.
fn q6_k_scale(g: u32, i: u32) -> vec2<f32> {
    let scales = unpack4xI8(w_sc[g >> 1u] >> ((i & 1u) << 4u)).xy;
    return half_of(w_d[half_index(g >> 3u)], g >> 3u) * vec2<f32>(scales);
}
