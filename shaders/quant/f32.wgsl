//! f32 — weights as they are.
//!
//! w       [N / 4]  four weights
//! exports quant_group, quant_read, quant_step, quant_half, quant_rest, quant_add, quant_bound
//! import  group
//! exact   the bits of the file
//! cpu     src/quant/float.rs

@group(1) @binding(0) var<storage, read> w_w: array<vec4<f32>>;

fn quant_group(g: u32) -> Group {
    let i = 8u * g;
    return Group(w_w[i], w_w[i + 1u], w_w[i + 2u], w_w[i + 3u], w_w[i + 4u], w_w[i + 5u], w_w[i + 6u], w_w[i + 7u]);
}

struct Quants { g: u32 }

fn quant_read(g: u32) -> Quants {
    return Quants(8u * g);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(group_fma(w_w[q.g + 2u * k + 1u], high, group_fma(w_w[q.g + 2u * k], low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return sum;
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return s;
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    return sum + s.x;
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return group_most(quant_group(g));
}
