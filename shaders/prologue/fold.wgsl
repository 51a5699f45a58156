//! fold — one row whose queries and key come as the matmul made them: they are normalized and rotated here.
//!
//! note     the workgroup that owns the row's position stores its key and value, and takes them from workgroup memory
//! exports  FOLDED         whether the row's own key and value are not in the cache yet
//!          prologue       fills `query`, and stores key and value if `is_owner`
//!          own_score      query m with the row's own key;  own_value  four elements of its value
//! q        [1, Q_STRIDE]  f32, heads from Q_OFFSET on;  k, v the same with K_…, V_…
//! angles   [1, N_ROT / 2] cosine and sine, scaled
//! const    Q_OFFSET, K_OFFSET, V_OFFSET;  HEAD_LEN  (HEADS + 1) · HEAD_DIM;  SQUARES_LEN  a quarter of that;
//!          FRESH_LEN  HEAD_DIM / 2
//! import   turn, kv_store
//! note     holds barriers: to be called in uniform control flow

const FOLDED = true;

override Q_OFFSET: u32;
override K_OFFSET: u32;
override V_OFFSET: u32;
override HEAD_LEN: u32;
override SQUARES_LEN: u32;
override FRESH_LEN: u32;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Kv>;
@group(0) @binding(4) var<storage, read_write> values: array<Kv>;
@group(0) @binding(7) var<storage, read> k: array<f32>;
@group(0) @binding(10) var<storage, read> v: array<f32>;
@group(0) @binding(11) var<storage, read> angles: array<vec2<f32>>;

// HEADS query heads and the key, as they come.
var<workgroup> head: array<f32, HEAD_LEN>;
// For each four elements of `head`.
var<workgroup> squares: array<f32, SQUARES_LEN>;
// The row's own key and value.
var<workgroup> fresh: array<vec4<f32>, FRESH_LEN>;
// For each query.
var<workgroup> own: array<f32, HEADS>;

fn n_rows() -> u32 {
    return 1u;
}

fn prologue(row: u32, first: u32, is_owner: bool, i: u32) {
    let quads = HEAD_DIM / 4u;
    let head_kv = first / (N_HEAD / N_HEAD_KV);

    // 1. the heads as they are, and their squares
    for (var e = i; e < HEADS * HEAD_DIM + zero; e += WG) {
        head[e] = q[Q_OFFSET + first * HEAD_DIM + e];
    }
    for (var e = i; e < HEAD_DIM + zero; e += WG) {
        head[HEADS * HEAD_DIM + e] = k[K_OFFSET + head_kv * HEAD_DIM + e];
    }
    workgroupBarrier();
    if HEAD_NORM {
        for (var x = i; x < (HEADS + 1u) * quads + zero; x += WG) {
            let e = vec4<f32>(head[4u * x], head[4u * x + 1u], head[4u * x + 2u], head[4u * x + 3u]);
            squares[x] = dot(e, e);
        }
        workgroupBarrier();
    }

    // 2. normalized and rotated
    for (var x = i; x < (HEADS + 1u) * quads + zero; x += WG) {
        let h = x / quads;
        let d = x % quads;
        var sum = 0.0;
        if HEAD_NORM {
            for (var s = 0u; s < quads + zero; s++) {
                sum += squares[h * quads + s];
            }
        }
        let e = turned_quad(h * HEAD_DIM, d, h < HEADS, 0u) * head_scale(sum);
        if h < HEADS {
            query[d * HEADS + h] = e * SCALE;
        } else {
            let o = V_OFFSET + head_kv * HEAD_DIM + 4u * d;
            fresh[d] = e;
            fresh[quads + d] = vec4<f32>(v[o], v[o + 1u], v[o + 2u], v[o + 3u]);
        }
    }
    workgroupBarrier();

    // 3. the position's owner stores, and scores its own key
    if is_owner {
        if first % (N_HEAD / N_HEAD_KV) == 0u {
            let slot = rows[0].slot;
            kv_store((slot / PAGE_LEN * N_HEAD_KV + head_kv) * KV_LEN, slot % PAGE_LEN, i);
        }
        for (var m = i; m < HEADS; m += WG) {
            var sum = 0.0;
            for (var d = 0u; d < quads + zero; d++) {
                sum = four_more(sum, query[d * HEADS + m], fresh[d]);
            }
            own[m] = softcap(vec4<f32>(sum)).x;
        }
    }
}

fn own_score(m: u32) -> f32 {
    return own[m];
}

fn own_value(quad: u32) -> vec4<f32> {
    return fresh[HEAD_DIM / 4u + quad];
}
