//! biased — experts in the order of their logits' sigmoids and a bias, weighed by the sigmoids.
//!
//! exports  score_order  what an expert is chosen by, as bits; score  its weight before the sum of all is divided by
//! bias     [E]  f32
//! import   sigmoid

@group(0) @binding(2) var<storage, read> bias: array<f32>;

fn score_order(bits: u32, e: u32) -> u32 {
    return bitcast<u32>(sigmoid(bitcast<f32>(bits)) + bias[e]);
}

fn score(bits: u32, largest: f32) -> f32 {
    return sigmoid(bitcast<f32>(bits));
}
