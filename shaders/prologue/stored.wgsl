//! stored — queries are ready, and all keys and values of the step are in the cache.
//!
//! exports  FOLDED         whether the row's own key and value are not in the cache yet
//!          prologue       fills `query`
//!          own_score, own_value  nothing
//! q        [T, N_HEAD, HEAD_DIM]  f32
//! step     T, N
//! note     holds no barrier: the caller's comes after it

const FOLDED = false;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> keys: array<Kv>;
@group(0) @binding(4) var<storage, read> values: array<Kv>;
@group(0) @binding(12) var<uniform> step: vec4<u32>;

fn n_rows() -> u32 {
    return step.x;
}

fn prologue(row: u32, head: u32, is_owner: bool, i: u32) {
    let quads = HEAD_DIM / 4u;
    for (var x = i; x < HEADS * ROWS * quads; x += WG) {
        let m = x / quads;
        let d = x % quads;
        let t = min(row + m / HEADS, n_rows() - 1u);
        query[d * HEADS * ROWS + m] = q[(t * N_HEAD + head + m % HEADS) * quads + d] * SCALE;
    }
}

fn own_score(m: u32) -> f32 {
    return 0.0;
}

fn own_value(quad: u32) -> vec4<f32> {
    return vec4<f32>();
}
