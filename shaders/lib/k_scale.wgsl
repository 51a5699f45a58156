//! k_scale — scales and mins of the groups of a super-block, six bits each, as src/quant/k_scales.rs packs them.
//!
//! exports k_pair   the two numbers of the group that is number `i` of its row or of the matrix: rows are whole super-blocks.
//!                  `low` is the first word for groups 0 to 3, the second one for 4 to 7; `high` is the third
//!         k_scale  d · scale and dmin · min of such a group of Q4_K or Q5_K, out of the head of its super-block
//! import  dot
//! cpu     src/quant/k_scales.rs

// Low bits of the scales 0 to 3 are nibbles of the lower half of the first word, those of the mins of its upper half; the
// second word has the next four; the last one has the two bits above them of all.
fn k_pair(low: u32, high: u32, i: u32) -> vec2<f32> {
    let bits = (low >> (4u * (i & 3u))) & 0x000f000fu;
    return dot_pair(bits | (((high >> (2u * (i & 7u))) & 0x00030003u) << 4u));
}

fn k_scale(head: vec4<u32>, i: u32) -> vec2<f32> {
    return unpack2x16float(head.x) * k_pair(select(head.y, head.z, (i & 4u) != 0u), head.w, i);
}
