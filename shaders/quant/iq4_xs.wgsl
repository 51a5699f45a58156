//! iq4_xs — super-blocks of 8 groups as those of iq4_nl, each with a 6-bit scale: w = (d · (scale - 32)) · number of q
//!
//! qs      [N / 32]   nibbles of a group
//! head    [N / 256]  d, f16, the upper two bits of the scales, and the lower four, as src/quant/iq4_xs.rs has them
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, dot, iq4
//! exact   quant_group has the bits of the CPU; quant_add scales once a group
//! cpu     src/quant/iq4_xs.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_head: array<vec2<u32>>;

fn quant_group(g: u32) -> Group {
    return group_scaled(iq4_xs_scale(g, g), iq4_group(w_qs[g]));
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
    return fma(iq4_xs_scale(g, column), s.x, sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return abs(127.0 * iq4_xs_scale(g, g));
}

// d · (scale - 32) of group g, which is number `i` of its row or of the matrix.
fn iq4_xs_scale(g: u32, i: u32) -> f32 {
    let head = w_head[g >> 3u];
    let low = (head.y >> (4u * (i & 7u))) & 15u;
    let high = (head.x >> (16u + 2u * (i & 7u))) & 3u;
    return unpack2x16float(head.x).x * (f32(low | (high << 4u)) - 32.0);
}
