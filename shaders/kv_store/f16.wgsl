//! f16 — writes a position's key and value of a head, rounded to f16.
//!
//! exports  kv_store  `fresh` to position `within` of the page whose head begins at `base`
//! import   kv
//! exact    rounded to f16; bounded, since an infinite key would turn a whole row into NaN

fn kv_store(base: u32, within: u32, i: u32) {
    for (var d = i; d < HEAD_DIM / 4u; d += WG) {
        keys[base + d * PAGE_LEN + within] = kv_pack(fresh[d]);
        values[base + within * (HEAD_DIM / 4u) + d] = kv_pack(fresh[HEAD_DIM / 4u + d]);
    }
}

fn kv_pack(v: vec4<f32>) -> Kv {
    let b = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(b.xy), pack2x16float(b.zw));
}
