//! f32 — writes a position's key and value of a head as they are.
//!
//! exports  kv_store  `fresh` to position `within` of the page whose head begins at `base`
//! import   kv
//! exact    nothing is rounded

fn kv_store(base: u32, within: u32, i: u32) {
    for (var d = i; d < HEAD_DIM / 4u; d += WG) {
        keys[base + d * PAGE_LEN + within] = fresh[d];
        values[base + within * (HEAD_DIM / 4u) + d] = fresh[HEAD_DIM / 4u + d];
    }
}
