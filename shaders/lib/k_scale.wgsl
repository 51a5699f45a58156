//! k_scale — scale and min of a group of Q4_K or Q5_K, out of the head of its super-block.
//!
//! exports k_scale  d · scale and dmin · min of the group that is number `i` of its row or of the matrix: rows are whole
//!                  super-blocks
//! import  dot
//! cpu     src/quant/k_scales.rs

// Low bits of the scales 0 to 3 are nibbles of the lower half of the second word, those of the mins of its upper half; the
// third word has the next four; the last one has the two bits above them of all.
fn k_scale(head: vec4<u32>, i: u32) -> vec2<f32> {
    let low = select(head.y, head.z, (i & 4u) != 0u) >> (4u * (i & 3u));
    let high = head.w >> (2u * (i & 7u));
    return unpack2x16float(head.x) * dot_pair((low & 0x000f000fu) | ((high & 0x00030003u) << 4u));
}
