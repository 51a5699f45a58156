//! group — 32 consecutive numbers of a row, the unit in which kernels read weights and activations.
//!
//! exports Group          the numbers, in order
//!         group_fma      s + Σ of four products
//!         group_fma_two  the same for two rows a and b, side by side: sums of both stay in registers
//!         group_sums     Σ of four numbers, and of four others
//!         group_most     max |a|
//!         Bytes          32 bytes, in order
//!         bytes_twos, bytes_twos_step, bytes_threes, bytes_threes_step,
//!         bytes_nibbles, bytes_fives, bytes_fives_step, bytes_sixes
//!                        whole numbers of 2 to 6 bits out of the planes that src/quant/planes.rs packs
//!         group_of       the bytes as numbers
//!         group_scaled   d times each number
//! tail    none: rows are whole groups
//! exact   yes, f16 denormals included; the sums add in this order, and may be fused
//! cpu     src/quant/planes.rs

struct Group {
    v0: vec4<f32>,
    v1: vec4<f32>,
    v2: vec4<f32>,
    v3: vec4<f32>,
    v4: vec4<f32>,
    v5: vec4<f32>,
    v6: vec4<f32>,
    v7: vec4<f32>,
}

fn group_fma(a: vec4<f32>, b: vec4<f32>, s: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, s))));
}

fn group_fma_two(s: vec2<f32>, a: vec4<f32>, b: vec4<f32>, v: vec4<f32>) -> vec2<f32> {
    let t = fma(vec2<f32>(a.y, b.y), vec2<f32>(v.y), fma(vec2<f32>(a.x, b.x), vec2<f32>(v.x), s));
    return fma(vec2<f32>(a.w, b.w), vec2<f32>(v.w), fma(vec2<f32>(a.z, b.z), vec2<f32>(v.z), t));
}

fn group_sums(low: vec4<f32>, high: vec4<f32>) -> vec2<f32> {
    return vec2<f32>((low.x + low.y) + (low.z + low.w), (high.x + high.y) + (high.z + high.w));
}

fn group_most(a: Group) -> f32 {
    let m = max(max(max(abs(a.v0), abs(a.v1)), max(abs(a.v2), abs(a.v3))), max(max(abs(a.v4), abs(a.v5)), max(abs(a.v6), abs(a.v7))));
    return max(max(m.x, m.y), max(m.z, m.w));
}

struct Bytes {
    low: vec4<u32>,
    high: vec4<u32>,
}

// Bits 2k and 2k + 1 of the four bytes of `twos.x` are weights 4k to 4k + 3, of `twos.y` 16 more.
fn bytes_twos(twos: vec2<u32>) -> Bytes {
    let shifts = vec4<u32>(0u, 2u, 4u, 6u);
    let low = (vec4<u32>(twos.x) >> shifts) & vec4<u32>(0x03030303u);
    return Bytes(low, (vec4<u32>(twos.y) >> shifts) & vec4<u32>(0x03030303u));
}

// Eight of them, the k-th, out of their word.
fn bytes_twos_step(twos: u32, k: u32) -> vec2<u32> {
    let w = twos >> (4u * (k % 2u));
    return vec2<u32>(w & 0x03030303u, (w >> 2u) & 0x03030303u);
}

// Bit k of the four bytes of `thirds` belongs to weights 4k to 4k + 3.
fn bytes_threes(twos: vec2<u32>, thirds: u32) -> Bytes {
    let low = vec4<u32>(thirds << 2u, thirds << 1u, thirds, thirds >> 1u) & vec4<u32>(0x04040404u);
    let high = (vec4<u32>(thirds) >> vec4<u32>(2u, 3u, 4u, 5u)) & vec4<u32>(0x04040404u);
    let w = bytes_twos(twos);
    return Bytes(w.low | low, w.high | high);
}

// Eight of them, the k-th: their third bits lie at 2k and 2k + 1, and belong to 2.
fn bytes_threes_step(twos: u32, thirds: u32, k: u32) -> vec2<u32> {
    let low = select(thirds << (2u - 2u * k), thirds >> (2u * k - 2u), k > 1u);
    let high = select(thirds << (1u - 2u * k), thirds >> (2u * k - 1u), k > 0u);
    return bytes_twos_step(twos, k) | (vec2<u32>(low, high) & vec2<u32>(0x04040404u));
}

// Low nibbles of word k are weights 8k to 8k + 3, high ones 8k + 4 to 8k + 7.
fn bytes_nibbles(w: vec4<u32>) -> Bytes {
    let even = w & vec4<u32>(0x0f0f0f0fu);
    let odd = (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    return Bytes(vec4<u32>(even.x, odd.x, even.y, odd.y), vec4<u32>(even.z, odd.z, even.w, odd.w));
}

// Bit k of the four bytes of `fifths` belongs to weights 4k to 4k + 3.
fn bytes_fives(nibbles: vec4<u32>, fifths: u32) -> Bytes {
    let low = vec4<u32>(fifths << 4u, fifths << 3u, fifths << 2u, fifths << 1u) & vec4<u32>(0x10101010u);
    let high = vec4<u32>(fifths, fifths >> 1u, fifths >> 2u, fifths >> 3u) & vec4<u32>(0x10101010u);
    let w = bytes_nibbles(nibbles);
    return Bytes(w.low | low, w.high | high);
}

// Eight of them, those of word k, as two words: its fifth bits lie at 2k and 2k + 1, and belong to 4.
fn bytes_fives_step(nibbles: u32, fifths: u32, k: u32) -> vec2<u32> {
    let low = select(fifths << (4u - 2u * k), fifths >> (2u * k - 4u), k > 2u);
    let high = select(fifths << (3u - 2u * k), fifths >> (2u * k - 3u), k > 1u);
    let a = (nibbles & 0x0f0f0f0fu) | (low & 0x10101010u);
    let b = ((nibbles >> 4u) & 0x0f0f0f0fu) | (high & 0x10101010u);
    return vec2<u32>(a, b);
}

// Bits 2k and 2k + 1 of the four bytes of `fifths.x` belong to weights 4k to 4k + 3, of `fifths.y` to 16 more.
fn bytes_sixes(nibbles: vec4<u32>, fifths: vec2<u32>) -> Bytes {
    let a = fifths.x;
    let b = fifths.y;
    let low = vec4<u32>(a << 4u, a << 2u, a, a >> 2u) & vec4<u32>(0x30303030u);
    let high = vec4<u32>(b << 4u, b << 2u, b, b >> 2u) & vec4<u32>(0x30303030u);
    let w = bytes_nibbles(nibbles);
    return Bytes(w.low | low, w.high | high);
}

fn group_scaled(d: f32, a: Group) -> Group {
    return Group(d * a.v0, d * a.v1, d * a.v2, d * a.v3, d * a.v4, d * a.v5, d * a.v6, d * a.v7);
}

fn group_of(w: Bytes) -> Group {
    let a = w.low;
    let b = w.high;
    return Group(
        vec4<f32>(unpack4xU8(a.x)), vec4<f32>(unpack4xU8(a.y)), vec4<f32>(unpack4xU8(a.z)), vec4<f32>(unpack4xU8(a.w)),
        vec4<f32>(unpack4xU8(b.x)), vec4<f32>(unpack4xU8(b.y)), vec4<f32>(unpack4xU8(b.z)), vec4<f32>(unpack4xU8(b.w)),
    );
}
