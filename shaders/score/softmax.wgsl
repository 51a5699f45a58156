//! softmax — experts in the order of their logits, weighed by a softmax of them.
//!
//! exports  score_order  what an expert is chosen by, as bits; score  its weight before the sum of all is divided by

fn score_order(bits: u32, e: u32) -> u32 {
    return bits;
}

fn score(bits: u32, largest: f32) -> f32 {
    return exp(bitcast<f32>(bits) - largest);
}
