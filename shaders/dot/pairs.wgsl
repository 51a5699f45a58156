//! pairs — quants times x, two quants at a time read as f16 with a bias: 0x6400 | q is 1024 + q.
//!
//! exports  dot4      s, plus the sum over the four bytes of a word, each plus 1024, times its x
//!          dot8      the same for the low nibbles plus 1024, and for 16 times the high ones plus 1024
//!          dot4_sum  what sums of dot4 mean: Σ q·x, given Σ x
//!          dot8_sum  what sums of dot8 mean together: Σ q·x, given Σ x of both
//!          dot_pair  the two halves of a word as numbers, below 1024
//! note     the numbers are exact; a GPU that reads f16 as operands of f32 instructions converts nothing. High nibbles
//!          stay where they are, since a mask is cheaper than a shift
//! exact    f32 sums, of which the bias takes 7 bits: nmse ≤ 1e-9

fn dot_biased(w: u32) -> vec2<f32> {
    return unpack2x16float(w | 0x64006400u);
}

fn dot4(w: u32, x: vec4<f32>, s: f32) -> f32 {
    let a = dot_biased(w & 0x00ff00ffu);
    let b = dot_biased((w >> 8u) & 0x00ff00ffu);
    return fma(b.y, x.w, fma(a.y, x.z, fma(b.x, x.y, fma(a.x, x.x, s))));
}

fn dot8(w: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let v = w >> 8u;
    let a = dot_biased(w & 0x000f000fu);
    let b = dot_biased(v & 0x000f000fu);
    let c = dot_biased(w & 0x00f000f0u);
    let d = dot_biased(v & 0x00f000f0u);
    return vec2<f32>(
        fma(b.y, low.w, fma(a.y, low.z, fma(b.x, low.y, fma(a.x, low.x, s.x)))),
        fma(d.y, high.w, fma(c.y, high.z, fma(d.x, high.y, fma(c.x, high.x, s.y)))),
    );
}

fn dot4_sum(s: f32, x_sum: f32) -> f32 {
    return fma(-1024.0, x_sum, s);
}

fn dot8_sum(s: vec2<f32>, x_sums: vec2<f32>) -> f32 {
    return fma(s.y, 0.0625, s.x) - fma(64.0, x_sums.y, 1024.0 * x_sums.x);
}

fn dot_pair(w: u32) -> vec2<f32> {
    return dot_biased(w) - 1024.0;
}
