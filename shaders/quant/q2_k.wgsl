//! q2_k — super-blocks of 8 groups of 2-bit quants; each 16 have a 4-bit scale and min: w = (d · scale) · q - (dmin · min)
//!
//! qs      [N / 32]   quants of a group
//! sc      [N / 64]   scales and mins of the four sub-blocks of two groups, the nibbles of a byte
//! dm      [N / 256]  d and dmin, f16
//! exports quant_group, quant_read, quant_step, quant_bytes, quant_half, quant_rest, quant_add, quant_bound
//! import  group, dot
//! exact   quant_group has the bits of the CPU where the driver does not fuse; quant_add scales once a sub-block
//! cpu     src/quant/q2_k.rs

@group(1) @binding(0) var<storage, read> w_qs: array<vec2<u32>>;
@group(1) @binding(1) var<storage, read> w_sc: array<u32>;
@group(1) @binding(2) var<storage, read> w_dm: array<u32>;

fn quant_group(g: u32) -> Group {
    let q = group_of(bytes_twos(w_qs[g]));
    let k = q2_k_scale(g, g);
    let m = vec4<f32>(k.m.x);
    let n = vec4<f32>(k.m.y);
    return Group(
        k.d.x * q.v0 - m, k.d.x * q.v1 - m, k.d.x * q.v2 - m, k.d.x * q.v3 - m,
        k.d.y * q.v4 - n, k.d.y * q.v5 - n, k.d.y * q.v6 - n, k.d.y * q.v7 - n,
    );
}

// Whether the two halves of a group have scales of their own.
const HALVES = true;
// What bytes of quants have to lose to be signed ones.
const SIGNED_BY = 0u;

struct Quants { qs: vec2<u32> }

fn quant_read(g: u32) -> Quants {
    return Quants(w_qs[g]);
}

fn quant_bytes(q: Quants, k: u32) -> vec2<u32> {
    return bytes_twos_step(q.qs[k / 2u], k);
}

fn quant_step(q: Quants, k: u32, low: vec4<f32>, high: vec4<f32>, s: vec2<f32>) -> vec2<f32> {
    let b = quant_bytes(q, k);
    return vec2<f32>(dot4(b.y, high, dot4(b.x, low, s.x)), 0.0);
}

fn quant_half(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sum: f32) -> f32 {
    let k = q2_k_scale(g, column);
    return fma(k.d.x, dot4_sum(s.x, x_sum), fma(-k.m.x, x_sum, sum));
}

fn quant_rest(s: vec2<f32>) -> vec2<f32> {
    return vec2<f32>();
}

fn quant_add(sum: f32, g: u32, column: u32, s: vec2<f32>, x_sums: vec2<f32>, x_half: f32) -> f32 {
    let x_sum = x_sums.x + x_sums.y - x_half;
    let k = q2_k_scale(g, column);
    return fma(k.d.y, dot4_sum(s.x, x_sum), fma(-k.m.y, x_sum, sum));
}

// No weight of group g is larger than this.
fn quant_bound(g: u32) -> f32 {
    let k = q2_k_scale(g, g);
    let most = max(abs(k.m), abs(3.0 * k.d - k.m));
    return max(most.x, most.y);
}

// d · scale and dmin · min of two sub-blocks.
struct Q2kScale { d: vec2<f32>, m: vec2<f32> }

// Those of group g, which is number `i` of its row or of the matrix.
fn q2_k_scale(g: u32, i: u32) -> Q2kScale {
    let bytes = w_sc[g >> 1u] >> ((i & 1u) << 4u);
    let both = (bytes & 0xffu) | ((bytes & 0xff00u) << 8u);
    let dm = unpack2x16float(w_dm[g >> 3u]);
    return Q2kScale(dm.x * dot_pair(both & 0x000f000fu), dm.y * dot_pair((both >> 4u) & 0x000f000fu));
}
