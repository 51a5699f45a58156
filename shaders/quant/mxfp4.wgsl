//! mxfp4 — groups of 4-bit floating-point numbers with a power of two: w = 2^(e - 128) · number of q
//!
//! qs      [N / 32]   nibbles of a group: sign, two bits of exponent, one of mantissa
//! e       [N / 128]  exponents of four groups, bytes
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, dot
//! exact   quant_group has the bits of the CPU but where these are f32 denormals; quant_add scales and offsets once a group
//! cpu     src/quant/mxfp4.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w_e: array<u32>;

fn quant_group(g: u32) -> Group {
    let w = w_qs[g];
    let a = mxfp4_bytes(w.x);
    let b = mxfp4_bytes(w.y);
    let c = mxfp4_bytes(w.z);
    let e = mxfp4_bytes(w.w);
    let q = group_of(Bytes(vec4<u32>(a, b), vec4<u32>(c, e)));
    let d = mxfp4_scale(g);
    return Group(
        d * (q.v0 - 12.0), d * (q.v1 - 12.0), d * (q.v2 - 12.0), d * (q.v3 - 12.0),
        d * (q.v4 - 12.0), d * (q.v5 - 12.0), d * (q.v6 - 12.0), d * (q.v7 - 12.0),
    );
}

// Whether the two halves of a group have scales of their own.
const HALVES = false;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { qs: vec4<u32> }

fn quant_read(g: u32) -> Quants {
    return Quants(w_qs[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    return mxfp4_bytes(q.qs[k]);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let b = quant_bytes(q, k);
    return vec2<f32>(dot4(b.y, high, dot4(b.x, low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    return sum;
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return s;
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    let x_sum = x_sums.x + x_sums.y;
    return fma(mxfp4_scale(g), fma(-12.0, x_sum, dot4_sum(s.x, x_sum)), sum);
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    return 12.0 * mxfp4_scale(g);
}

fn mxfp4_scale(g: u32) -> f32 {
    let e = (w_e[g >> 2u] >> (8u * (g & 3u))) & 0xffu;
    return bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
}

// The numbers of the low nibbles of a word and of its high ones, plus 12, in bytes.
fn mxfp4_bytes(w: u32) -> vec2<u32> {
    // Magnitudes 0 to 3 are what the lower three bits say. From 4 on they grow by 2: what exceeds 4 counts twice; and 7,
    // which would be 10, is 12.
    let bits = w & 0x77777777u;
    let above = bits & (3u * ((w >> 2u) & 0x11111111u));
    let most = above & (above >> 1u) & 0x11111111u;
    let size = bits + above + 2u * most;
    let negative = size & (15u * ((w >> 3u) & 0x11111111u));
    let low = (size & 0x0f0f0f0fu) + 0x0c0c0c0cu - 2u * (negative & 0x0f0f0f0fu);
    let high = ((size >> 4u) & 0x0f0f0f0fu) + 0x0c0c0c0cu - 2u * ((negative >> 4u) & 0x0f0f0f0fu);
    return vec2<u32>(low, high);
}
