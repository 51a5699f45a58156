//! f16_packed — four numbers of the KV cache in f16, two to a word: needs no f16 in shaders.
//!
//! exports  Kv4, kv_pack, kv_unpack
//! exact    rounded to f16; bounded, since an infinite key would turn a whole row into NaN

alias Kv4 = vec2<u32>;

fn kv_pack(v: vec4<f32>) -> Kv4 {
    let b = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(b.xy), pack2x16float(b.zw));
}

fn kv_unpack(v: Kv4) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
