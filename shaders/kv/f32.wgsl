//! f32 — four numbers of the KV cache in f32.
//!
//! exports  Kv4, kv_pack, kv_unpack
//! exact    nothing is rounded

alias Kv4 = vec4<f32>;

fn kv_pack(v: vec4<f32>) -> Kv4 {
    return v;
}

fn kv_unpack(v: Kv4) -> vec4<f32> {
    return v;
}
