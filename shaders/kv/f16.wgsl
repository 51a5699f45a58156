//! f16 — keys and values of a page in f16, four numbers an element, two to a word.
//!
//! exports  Kv, KV_LEN, kv_key, kv_value
//! keys     [page, head, Dh / 4, PAGE_LEN]  so that neighbouring invocations, which take neighbouring positions, read
//!                                          neighbouring memory
//! values   [page, head, PAGE_LEN, Dh / 4]  since there neighbouring invocations take neighbouring elements
//! import   page
//! note     words, not f16: unpacking is exact everywhere and needs no f16 in shaders

alias Kv = vec2<u32>;

/// Elements of a head in a page.
override KV_LEN: u32 = HEAD_DIM / 4u * PAGE_LEN;

fn kv_key(base: u32, within: u32, d4: u32) -> vec4<f32> {
    return kv_unpack(keys[base + d4 * PAGE_LEN + within]);
}

fn kv_value(base: u32, within: u32, d4: u32) -> vec4<f32> {
    return kv_unpack(values[base + within * (HEAD_DIM / 4u) + d4]);
}

fn kv_unpack(v: Kv) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
