//! bytes — quants times x, each quant converted from a byte of its own. plain
//!
//! exports  dot4      s, plus the sum over the four bytes of a word, each times its x, in units of the file
//!          dot8      the same for the low and for the high nibbles of a word
//!          dot4_sum  what sums of dot4 mean: Σ q·x, given Σ x
//!          dot8_sum  what sums of dot8 mean together: Σ q·x, given Σ x of both
//!          dot_pair  the two halves of a word as numbers, below 1024
//! exact    f32 sums

fn dot4(w: u32, x: vec4<f32>, s: f32) -> f32 {
    let q = vec4<f32>(unpack4xU8(w));
    return fma(q.w, x.w, fma(q.z, x.z, fma(q.y, x.y, fma(q.x, x.x, s))));
}

fn dot8(w: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(dot4(w & 0x0f0f0f0fu, low, s.x), dot4((w >> 4u) & 0x0f0f0f0fu, high, s.y));
}

fn dot4_sum(s: f32, x_sum: f32) -> f32 {
    return s;
}

fn dot8_sum(s: vec2<f32>, x_sums: vec2<f32>) -> f32 {
    return s.x + s.y;
}

fn dot_pair(w: u32) -> vec2<f32> {
    return vec2<f32>(vec2<u32>(w & 0xffffu, w >> 16u));
}
