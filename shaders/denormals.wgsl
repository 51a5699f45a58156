//! denormals — Σ q·x over the nibbles and the bytes of words, as `dot` does it: tells whether a device can do it so.
//!
//! w       [64]  words
//! x       [64]  f32, four at a time
//! y       [64]  f32, two for each of the first 32 words: of its nibbles, of its bytes
//! grid    one workgroup
//! group   an invocation takes a word; 32 of them
//! import  dot
//! tail    none
//! exact   whole numbers come out as they are
//! cpu     src/backend/gpu/denormals.rs

@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) i: u32) {
    let low = x[i % 16u];
    let high = x[(i + 5u) % 16u];
    let ones = vec4<f32>(1.0);
    let x_sums = vec2<f32>(dot(low, ones), dot(high, ones));
    y[2u * i] = dot8_sum(dot8(w[i], low, high, vec2<f32>()), x_sums);
    y[2u * i + 1u] = dot4_sum(dot4(w[i], low, 0.0), x_sums.x);
}
