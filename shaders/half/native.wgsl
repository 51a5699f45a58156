//! native — planes of f16 as what they are, on devices whose shaders have the type.
//!
//! exports  Half        an entry of the plane's array
//!          half_index  the entry that has number `i`
//!          half_of     number `i` out of its entry

enable f16;

alias Half = f16;

fn half_index(i: u32) -> u32 {
    return i;
}

fn half_of(entry: Half, i: u32) -> f32 {
    return f32(entry);
}
