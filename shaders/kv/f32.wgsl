//! f32 — keys and values of a page in f32, four numbers an element.
//!
//! exports  Kv, KV_LEN, kv_key, kv_value
//! keys     [page, head, Dh / 4, PAGE_LEN]  as in f16
//! values   [page, head, PAGE_LEN, Dh / 4]
//! import   page

alias Kv = vec4<f32>;

/// Elements of a head in a page.
override KV_LEN: u32 = HEAD_DIM / 4u * PAGE_LEN;

fn kv_key(base: u32, within: u32, d4: u32) -> vec4<f32> {
    return keys[base + d4 * PAGE_LEN + within];
}

fn kv_value(base: u32, within: u32, d4: u32) -> vec4<f32> {
    return values[base + within * (HEAD_DIM / 4u) + d4];
}
