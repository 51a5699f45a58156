//! q8_0 — writes a position's key and value of a head, each block of 32 as 8-bit quants with a scale.
//!
//! exports  kv_store  `fresh` to position `within` of the page whose head begins at `base`
//! import   kv
//! exact    scale = max |x| / 127 rounded to f16, quant = round(x · 127 / max |x|), as ggml does it; a scale is bounded
//! note     an invocation looks through the block of its four numbers, rather than meeting others behind a barrier

fn kv_store(base: u32, within: u32, i: u32) {
    let quads = HEAD_DIM / 4u;
    for (var d = i; d < quads; d += WG) {
        keys[base + d * PAGE_LEN + within] = kv_quants(0u, d);
        values[base + within * quads + d] = kv_quants(quads, d);
    }
    for (var s = i; s < KV_SCALES; s += WG) {
        keys[base + (quads + s) * PAGE_LEN + within] = kv_scales(0u, s);
        values[base + quads * PAGE_LEN + within * KV_SCALES + s] = kv_scales(quads, s);
    }
}

// The largest |x| of a block of `fresh`; `start` is where the key or the value begins.
fn kv_largest(start: u32, block: u32) -> f32 {
    var top = vec4<f32>();
    for (var d = 8u * block; d < min(8u * block + 8u, HEAD_DIM / 4u); d++) {
        top = max(top, abs(fresh[start + d]));
    }
    return max(max(top.x, top.y), max(top.z, top.w));
}

fn kv_quants(start: u32, d: u32) -> u32 {
    let top = kv_largest(start, d / 8u);
    let q = round(fresh[start + d] * select(0.0, 127.0 / top, top > 0.0));
    return pack4xI8(vec4<i32>(clamp(q, vec4<f32>(-127.0), vec4<f32>(127.0))));
}

fn kv_scales(start: u32, s: u32) -> u32 {
    let top = vec2<f32>(kv_largest(start, 2u * s), kv_largest(start, 2u * s + 1u));
    return pack2x16float(min(top / 127.0, vec2<f32>(65504.0)));
}
