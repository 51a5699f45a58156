//! iq4 — the numbers that four-bit quants of IQ4_NL and IQ4_XS stand for.
//!
//! exports  iq4_numbers  those of the lower nibbles of the four bytes of a word
//!          iq4_group    those of a group
//!          iq4_bytes    those of the low nibbles of a word, and of its high ones, as signed bytes
//!          iq4_dot      s, plus the sum over them, each times its x
//! import   group, dot
//! note     a table would be sixteen numbers that invocations read each at a place of its own. A curve of the fourth degree
//!          is nearer than a half to all of them
//! exact    yes
//! cpu      src/quant/iq4_nl.rs

fn iq4_numbers(w: u32) -> vec4<f32> {
    let even = dot_pair(w & 0x000f000fu);
    let odd = dot_pair((w >> 8u) & 0x000f000fu);
    let q = vec4<f32>(even.x, odd.x, even.y, odd.y);
    let a = fma(q, vec4<f32>(0.001586), vec4<f32>(0.031086));
    let b = fma(q, a, vec4<f32>(-1.3719));
    let c = fma(q, b, vec4<f32>(24.174));
    return round(fma(q, c, vec4<f32>(-126.57)));
}

fn iq4_group(w: vec4<u32>) -> Group {
    return Group(
        iq4_numbers(w.x), iq4_numbers(w.x >> 4u), iq4_numbers(w.y), iq4_numbers(w.y >> 4u),
        iq4_numbers(w.z), iq4_numbers(w.z >> 4u), iq4_numbers(w.w), iq4_numbers(w.w >> 4u),
    );
}

fn iq4_bytes(w: u32) -> vec2<u32> {
    return vec2<u32>(pack4xI8(vec4<i32>(iq4_numbers(w))), pack4xI8(vec4<i32>(iq4_numbers(w >> 4u))));
}

fn iq4_dot(w: u32, low: vec4<f32>, high: vec4<f32>, s: f32) -> f32 {
    return group_fma(iq4_numbers(w >> 4u), high, group_fma(iq4_numbers(w), low, s));
}
