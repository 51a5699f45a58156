//! f32 — weights as they are.
//!
//! w       [N / 4]  four weights
//! exports quant_group, quant_dot, quant_bound
//! import  group
//! exact   the bits of the file
//! cpu     src/quant/float.rs

@group(1) @binding(0) var<storage, read> w_w: array<vec4<f32>>;

fn quant_group(g: u32) -> Group {
    let i = 8u * g;
    return Group(w_w[i], w_w[i + 1u], w_w[i + 2u], w_w[i + 3u], w_w[i + 4u], w_w[i + 5u], w_w[i + 6u], w_w[i + 7u]);
}

fn quant_dot(g: u32, x: Group, x_sum: f32) -> f32 {
    return group_dot(quant_group(g), x);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return group_most(quant_group(g));
}
