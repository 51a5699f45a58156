//! q5_0 — groups of 5-bit quants with a scale: w = d · (q - 16)
//!
//! qs      [N / 32]   nibbles of a group
//! qh      [N / 32]   fifth bits of a group
//! d       [N / 64]   scales of two groups, f16
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, half, dot
//! exact   quant_group has the bits of the CPU; quant_add scales and offsets once a group
//! cpu     src/quant/q5_0.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_qh: array<u32>;
@group(1) @binding(2) var<storage, read> w_d: array<Half>;

fn quant_group(g: u32) -> Group {
    let q = group_of(bytes_fives(w_qs[g], w_qh[g]));
    let d = half_of(w_d[half_index(g)], g);
    return Group(
        d * (q.v0 - 16.0), d * (q.v1 - 16.0), d * (q.v2 - 16.0), d * (q.v3 - 16.0),
        d * (q.v4 - 16.0), d * (q.v5 - 16.0), d * (q.v6 - 16.0), d * (q.v7 - 16.0),
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
    let d = half_of(w_d[half_index(g)], g);
    return fma(d, fma(-16.0, x_sums.x + x_sums.y, dot4_sum(s.x, x_sums.x + x_sums.y)), sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(16.0 * half_of(w_d[half_index(g)], g));
}
