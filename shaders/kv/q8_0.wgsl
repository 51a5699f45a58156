//! q8_0 — keys and values of a page as 8-bit quants, four to a word, with a scale for each block of 32 numbers.
//!
//! exports  Kv, KV_LEN, KV_SCALES, kv_key, kv_value
//! keys     [page, head, Dh / 4 + KV_SCALES, PAGE_LEN]  words of quants, then words of two f16 scales
//! values   [page, head, PAGE_LEN, Dh / 4] quants, then [PAGE_LEN, KV_SCALES] scales
//! import   page
//! note     the two scales of a word are of one position, so that no two workgroups write one word; the last block of a
//!          head is short where 32 does not divide Dh

alias Kv = u32;

/// Words of scales for a position.
override KV_SCALES: u32 = (HEAD_DIM + 63u) / 64u;
/// Elements of a head in a page.
override KV_LEN: u32 = (HEAD_DIM / 4u + KV_SCALES) * PAGE_LEN;

fn kv_key(base: u32, within: u32, d4: u32) -> vec4<f32> {
    let at = base + within;
    let scales = keys[at + (HEAD_DIM / 4u + d4 / 16u) * PAGE_LEN];
    return vec4<f32>(unpack4xI8(keys[at + d4 * PAGE_LEN])) * kv_scale(scales, d4);
}

fn kv_value(base: u32, within: u32, d4: u32) -> vec4<f32> {
    let scales = values[base + HEAD_DIM / 4u * PAGE_LEN + within * KV_SCALES + d4 / 16u];
    return vec4<f32>(unpack4xI8(values[base + within * (HEAD_DIM / 4u) + d4])) * kv_scale(scales, d4);
}

// The scale of the block that four numbers are in.
fn kv_scale(scales: u32, d4: u32) -> f32 {
    return unpack2x16float(scales >> ((d4 & 8u) << 1u)).x;
}
