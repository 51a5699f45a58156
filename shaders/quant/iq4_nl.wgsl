//! iq4_nl — groups of 4-bit quants with a scale, which stand for unequally spaced numbers: w = d · number of q
//!
//! qs      [N / 32]   nibbles of a group
//! d       [N / 64]   scales of two groups, f16
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, half, dot, iq4
//! exact   quant_group has the bits of the CPU; quant_add scales once a group
//! cpu     src/quant/iq4_nl.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_d: array<Half>;

fn quant_group(g: u32) -> Group {
    return group_scaled(half_of(w_d[half_index(g)], g), iq4_group(w_qs[g]));
}

// Whether the two halves of a group have scales of their own.
const HALVES = false;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { qs: vec4<u32> }

fn quant_read(g: u32) -> Quants {
    return Quants(w_qs[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    return iq4_bytes(q.qs[k]);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(iq4_dot(q.qs[k], low, high, s.x), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return sum;
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return s;
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    return fma(half_of(w_d[half_index(g)], g), s.x, sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(127.0 * half_of(w_d[half_index(g)], g));
}
