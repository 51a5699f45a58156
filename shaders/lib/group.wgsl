//! group — 32 consecutive numbers of a row, the unit in which kernels read weights and activations.
//!
//! exports Group          the numbers, in order
//!         group_dot      Σ a·b
//!         group_sum      Σ a
//!         group_most     max |a|
//!         group_half     one f16 of a plane that has two in a word
//!         group_nibbles, group_fives, group_sixes
//!                        whole numbers of 4, 5 and 6 bits out of the planes that src/quant/planes.rs packs
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

fn group_dot(a: Group, b: Group) -> f32 {
    // Four sums side by side rather than eight dot products: no chain is longer, and fewer additions.
    let s = a.v0 * b.v0 + a.v1 * b.v1 + a.v2 * b.v2 + a.v3 * b.v3 + a.v4 * b.v4 + a.v5 * b.v5 + a.v6 * b.v6 + a.v7 * b.v7;
    return (s.x + s.y) + (s.z + s.w);
}

fn group_sum(a: Group) -> f32 {
    let s = ((a.v0 + a.v1) + (a.v2 + a.v3)) + ((a.v4 + a.v5) + (a.v6 + a.v7));
    return (s.x + s.y) + (s.z + s.w);
}

fn group_most(a: Group) -> f32 {
    let m = max(max(max(abs(a.v0), abs(a.v1)), max(abs(a.v2), abs(a.v3))), max(max(abs(a.v4), abs(a.v5)), max(abs(a.v6), abs(a.v7))));
    return max(max(m.x, m.y), max(m.z, m.w));
}

// Number `i` of a plane of f16, out of the word i / 2 of that plane.
fn group_half(word: u32, i: u32) -> f32 {
    return unpack2x16float(word >> ((i & 1u) << 4u)).x;
}

// Low nibbles are weights 0 to 15, high ones 16 to 31.
fn group_nibbles(nibbles: vec4<u32>) -> Group {
    return group_of_bytes(group_low(nibbles), group_high(nibbles));
}

// Bit k of the four bytes of `fifths` belongs to weights 4k to 4k + 3.
fn group_fives(nibbles: vec4<u32>, fifths: u32) -> Group {
    let low = vec4<u32>(fifths << 4u, fifths << 3u, fifths << 2u, fifths << 1u) & vec4<u32>(0x10101010u);
    let high = vec4<u32>(fifths, fifths >> 1u, fifths >> 2u, fifths >> 3u) & vec4<u32>(0x10101010u);
    return group_of_bytes(group_low(nibbles) | low, group_high(nibbles) | high);
}

// Bits 2k and 2k + 1 of the four bytes of `fifths.x` belong to weights 4k to 4k + 3, of `fifths.y` to 16 more.
fn group_sixes(nibbles: vec4<u32>, fifths: vec2<u32>) -> Group {
    let a = fifths.x;
    let b = fifths.y;
    let low = vec4<u32>(a << 4u, a << 2u, a, a >> 2u) & vec4<u32>(0x30303030u);
    let high = vec4<u32>(b << 4u, b << 2u, b, b >> 2u) & vec4<u32>(0x30303030u);
    return group_of_bytes(group_low(nibbles) | low, group_high(nibbles) | high);
}

fn group_low(w: vec4<u32>) -> vec4<u32> {
    return w & vec4<u32>(0x0f0f0f0fu);
}

fn group_high(w: vec4<u32>) -> vec4<u32> {
    return (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
}

fn group_of_bytes(a: vec4<u32>, b: vec4<u32>) -> Group {
    return Group(
        vec4<f32>(unpack4xU8(a.x)), vec4<f32>(unpack4xU8(a.y)), vec4<f32>(unpack4xU8(a.z)), vec4<f32>(unpack4xU8(a.w)),
        vec4<f32>(unpack4xU8(b.x)), vec4<f32>(unpack4xU8(b.y)), vec4<f32>(unpack4xU8(b.z)), vec4<f32>(unpack4xU8(b.w)),
    );
}
