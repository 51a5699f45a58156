//! packed — planes of f16 as words of two: needs no f16 in shaders.
//!
//! exports  Half        an entry of the plane's array
//!          half_index  the entry that has number `i`
//!          half_of     number `i` out of its entry

alias Half = u32;

fn half_index(i: u32) -> u32 {
    return i >> 1u;
}

fn half_of(entry: Half, i: u32) -> f32 {
    return unpack2x16float(entry >> ((i & 1u) << 4u)).x;
}
