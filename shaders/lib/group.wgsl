//! group — 32 consecutive numbers of a row, the unit in which kernels read weights and activations.
//!
//! exports Group       the numbers, in order
//!         group_dot   Σ a·b
//!         group_sum   Σ a
//!         group_half  one f16 of a plane that has two in a word
//!         group_bytes the four bytes of a word as numbers
//! tail    none: rows are whole groups
//! exact   group_half, group_bytes: yes (f16 denormals included); the sums add in this order, and may be fused

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

// Number `i` of a plane of f16, out of the word i / 2 of that plane.
fn group_half(word: u32, i: u32) -> f32 {
    return unpack2x16float(word >> ((i & 1u) << 4u)).x;
}

fn group_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}
