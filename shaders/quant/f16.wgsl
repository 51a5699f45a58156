//! f16 — weights in IEEE half precision.
//!
//! w       [N / 8]  eight weights, two in a word
//! exports quant_group, quant_read, quant_step, quant_half, quant_rest, quant_add, quant_bound
//! import  group
//! exact   yes
//! cpu     src/quant/float.rs

@group(1) @binding(0) var<storage, read> w_w: array<vec4<u32>>;

fn quant_group(g: u32) -> Group {
    let i = 4u * g;
    let a = w_w[i];
    let b = w_w[i + 1u];
    let c = w_w[i + 2u];
    let d = w_w[i + 3u];
    return Group(
        f16_four(a.x, a.y), f16_four(a.z, a.w), f16_four(b.x, b.y), f16_four(b.z, b.w),
        f16_four(c.x, c.y), f16_four(c.z, c.w), f16_four(d.x, d.y), f16_four(d.z, d.w),
    );
}

struct Quants { g: u32 }

fn quant_read(g: u32) -> Quants {
    return Quants(4u * g);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let w = w_w[q.g + k];
    return vec2<f32>(group_fma(f16_four(w.z, w.w), high, group_fma(f16_four(w.x, w.y), low, s.x)), 0.0);
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

fn f16_four(a: u32, b: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
}
