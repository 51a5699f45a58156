//! denormals — quants times x, two quants at a time read as f16 as they are: the denormal number q · 2⁻²⁴.
//!
//! exports  dot4      s, plus the sum over the four bytes of a word, each times its x, in units of 2⁻²⁴
//!          dot8      the same for the low nibbles, and for 16 times the high ones
//!          dot4_sum  what sums of dot4 mean: Σ q·x, given Σ x
//!          dot8_sum  what sums of dot8 mean together: Σ q·x, given Σ x of both
//!          dot_pair  the two halves of a word as numbers, below 1024
//! note     for devices that keep f16 denormals, which is tested when one is opened. Nothing is converted and nothing has
//!          a bias: a mask for two quants and a multiply-add for each is all there is
//! exact    f32 sums

fn dot4(w: u32, x: vec4<f32>, s: f32) -> f32 {
    let a = unpack2x16float(w & 0x00ff00ffu);
    let b = unpack2x16float((w >> 8u) & 0x00ff00ffu);
    return fma(b.y, x.w, fma(a.y, x.z, fma(b.x, x.y, fma(a.x, x.x, s))));
}

fn dot8(w: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let v = w >> 8u;
    let a = unpack2x16float(w & 0x000f000fu);
    let b = unpack2x16float(v & 0x000f000fu);
    let c = unpack2x16float(w & 0x00f000f0u);
    let d = unpack2x16float(v & 0x00f000f0u);
    return vec2<f32>(
        fma(b.y, low.w, fma(a.y, low.z, fma(b.x, low.y, fma(a.x, low.x, s.x)))),
        fma(d.y, high.w, fma(c.y, high.z, fma(d.x, high.y, fma(c.x, high.x, s.y)))),
    );
}

fn dot4_sum(s: f32, x_sum: f32) -> f32 {
    return 16777216.0 * s;
}

fn dot8_sum(s: vec2<f32>, x_sums: vec2<f32>) -> f32 {
    return fma(s.y, 1048576.0, 16777216.0 * s.x);
}

fn dot_pair(w: u32) -> vec2<f32> {
    return 16777216.0 * unpack2x16float(w);
}
