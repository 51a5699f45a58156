//! f16 — four numbers of the KV cache in f16, on devices whose shaders have the type.
//!
//! exports  Kv4, kv_pack, kv_unpack
//! exact    rounded to f16; bounded, since an infinite key would turn a whole row into NaN

enable f16;

alias Kv4 = vec4<f16>;

fn kv_pack(v: vec4<f32>) -> Kv4 {
    return vec4<f16>(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}

fn kv_unpack(v: Kv4) -> vec4<f32> {
    return vec4<f32>(v);
}
