//! integers — for kernels that multiply quants by dot products of bytes themselves, and bring Σ q·x in one number.
//!
//! exports  dot4, dot8           of no use here
//!          dot4_sum, dot8_sum  the sum
//!          dot_pair             the two halves of a word as numbers, below 1024
//! exact    yes

fn dot4(w: u32, x: vec4<f32>, s: f32) -> f32 {
    return s;
}

fn dot8(w: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    return s;
}

fn dot4_sum(s: f32, x_sum: f32) -> f32 {
    return s;
}

fn dot8_sum(s: vec2<f32>, x_sums: vec2<f32>) -> f32 {
    return s.x;
}

fn dot_pair(w: u32) -> vec2<f32> {
    return unpack2x16float(w | 0x64006400u) - 1024.0;
}
