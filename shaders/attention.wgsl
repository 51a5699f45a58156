//! attention — softmax(q·Kᵀ · scale) · V for tiles of query heads, scores never materialized.
//!
//! q       queries, as `prologue` takes them
//! rows    [T]                    token, position, KV slot, page table
//! tables  page numbers, one table per sequence
//! keys, values                   the cache, as `kv` lays it out
//! y       [T, N_HEAD, HEAD_DIM]  f32, if there is one split
//! partials  [T, N_HEAD, MAX_SPLITS, HEAD_DIM / 4 + 1]  f32, if there are more: sums, then top and total
//! grid    (N_HEAD / HEADS, ceil(T / ROWS), splits) workgroups
//! group   HEADS heads of one KV head in ROWS rows are its queries; keys and values are read once for all of them.
//!         TILE positions at a time; for scores an invocation takes a position, for values four elements of a part of them
//! const   N_HEAD, N_HEAD_KV, HEAD_DIM, SCALE;  WINDOW, SOFTCAP  0 for none;  HEADS, ROWS  at most 16 queries;  SPLIT,
//!         MAX_SPLITS;  WG  a power of two ≥ HEAD_DIM / 4;  TILE  a multiple of WG and of a page;  FOURS  a quarter of the
//!         queries, rounded up;  ROLLED  1 where unrolled loops spill;  QUERY_LEN  HEADS · ROWS · HEAD_DIM / 4;  WEIGHTS_LEN  FOURS · TILE
//! import  row, page, visible, kv, fours, sinks, prologue
//! tail    HEAD_DIM is a multiple of 4; rows ≥ T stand for nothing; positions that a row may not see weigh 0, and none beyond
//!         the last that any row of the workgroup sees is read; rows of several sequences are taken one sequence at a time
//! exact   f32, online softmax: nmse ≤ 1e-7 (≤ 1e-5 with f16 keys and values, ≤ 1e-3 with q8_0)
//! cpu     src/backend/cpu/ops/attention.rs

override N_HEAD: u32;
override SCALE: f32;
override SOFTCAP: f32;
override HEADS: u32;
override ROWS: u32;
override MAX_SPLITS: u32;
override WG: u32;
override TILE: u32;
override PARTS: u32;
override FOURS: u32;
override QUERY_LEN: u32;
override WEIGHTS_LEN: u32;

@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;

// 1 to keep loops loops.
override ROLLED: u32;
// Quads of a key that are read at a time.
override STEP: u32 = select(1u, 2u, HEAD_DIM % 8u == 0u);

// Finite, since fast-math compilers may assume that there is no infinity.
const LOW = -1e30;
const SEEN = -1e29;

// 0, which compilers don't know if ROLLED: a loop with it in its bound stays a loop, rather than a page of code and registers.
var<private> zero: u32;

// [HEAD_DIM / 4, queries]
var<workgroup> query: array<vec4<f32>, QUERY_LEN>;
// [TILE, FOURS]: scores, then weights.
var<workgroup> weights: array<vec4<f32>, WEIGHTS_LEN>;
// Largest score and sum of weights of each query.
var<workgroup> tops: array<vec4<f32>, 4>;
var<workgroup> totals: array<vec4<f32>, 4>;

fn four_more(s: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, s))));
}

/// With four more elements of a key, times those of the queries from m on, which lie at `at`.
fn scores(s: vec4<f32>, at: u32, m: u32, k: vec4<f32>) -> vec4<f32> {
    var t = s;
    t.x = four_more(t.x, query[at], k);
    if m + 1u < HEADS * ROWS { t.y = four_more(t.y, query[at + 1u], k); }
    if m + 2u < HEADS * ROWS { t.z = four_more(t.z, query[at + 2u], k); }
    if m + 3u < HEADS * ROWS { t.w = four_more(t.w, query[at + 3u], k); }
    return t;
}

fn weighted(
    s: vec4<f32>,
    v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
    w0: f32, w1: f32, w2: f32, w3: f32,
) -> vec4<f32> {
    let a = fma(vec4<f32>(w1), v1, fma(vec4<f32>(w0), v0, s));
    return fma(vec4<f32>(w3), v3, fma(vec4<f32>(w2), v2, a));
}

fn softcap(s: vec4<f32>) -> vec4<f32> {
    if SOFTCAP > 0.0 {
        return SOFTCAP * tanh(clamp(s / SOFTCAP, vec4<f32>(-15.0), vec4<f32>(15.0)));
    }
    return s;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let quads = HEAD_DIM / 4u;
    let n_queries = HEADS * ROWS;
    zero = select(0u, count.x >> 31u, ROLLED == 1u);
    let head = id.x * HEADS;
    let head_kv = head / (N_HEAD / N_HEAD_KV);
    let t = id.y * ROWS;
    // Folded rows and splits have one row a workgroup.
    let is_owner = SPLIT == 0u || id.z + 1u == n_splits(rows[t].pos);
    if SPLIT > 0u && id.z >= n_splits(rows[t].pos) {
        return;
    }
    prologue(t, head, is_owner, i);
    workgroupBarrier();

    // With one part its number is a constant, and so all loops over positions are uniform.
    let part = select(i / quads, 0u, WG == quads);
    let quad = select(i % quads, i, WG == quads);
    var top: array<vec4<f32>, 4>;
    var total: array<vec4<f32>, 4>;
    var sum: array<vec4<f32>, 16>;
    for (var f = 0u; f < FOURS; f++) {
        top[f] = vec4<f32>(LOW);
    }

    for (var first = 0u; first < ROWS + zero; first++) {
        // 1. a sequence of the rows: the positions that these see
        if t + first >= n_rows() {
            break;
        }
        let table = rows[t + first].table;
        var begin = split_from(rows[t + first].pos);
        var end = 0u;
        var known = false;
        // What each query sees; nothing if its row is of another sequence.
        var sees_from: array<vec4<u32>, 4>;
        var sees_to: array<vec4<u32>, 4>;
        for (var m = 0u; m < n_queries; m++) {
            let r = m / HEADS;
            let row = rows[min(t + r, n_rows() - 1u)];
            if row.table == table {
                known = known || r < first;
                begin = min(begin, split_from(row.pos));
                end = max(end, row.pos + u32(!FOLDED));
                sees_from[m / 4u][m % 4u] = visible_from(row.pos);
                sees_to[m / 4u][m % 4u] = row.pos + u32(!FOLDED);
            }
        }
        if known {
            continue;
        }
        if SPLIT > 0u {
            begin += id.z * SPLIT;
            end = min(end, begin + SPLIT);
        }

        for (var start = begin; start < end; start += TILE) {
            // 2. scores of TILE positions
            var high: array<vec4<f32>, 4>;
            for (var f = 0u; f < FOURS; f++) {
                high[f] = top[f];
            }
            for (var p = i; p < TILE + zero; p += WG) {
                let pos = start + p;
                let at = min(pos, end - 1u);
                let base = (tables[table + at / PAGE_LEN] * N_HEAD_KV + head_kv) * KV_LEN;
                var s: array<vec4<f32>, 4>;
                for (var d = 0u; d < quads + zero; d += STEP) {
                    let k0 = kv_key(base, at % PAGE_LEN, d);
                    let k1 = kv_key(base, at % PAGE_LEN, d + STEP / 2u);
                    for (var f = 0u; f < FOURS; f++) {
                        s[f] = scores(s[f], d * n_queries + 4u * f, 4u * f, k0);
                        if STEP == 2u {
                            s[f] = scores(s[f], (d + 1u) * n_queries + 4u * f, 4u * f, k1);
                        }
                    }
                }
                for (var f = 0u; f < FOURS; f++) {
                    let seen = (vec4<u32>(pos) >= sees_from[f]) & (vec4<u32>(pos) < min(sees_to[f], vec4<u32>(end)));
                    let score = select(vec4<f32>(LOW), softcap(s[f]), seen);
                    weights[p * FOURS + f] = score;
                    high[f] = max(high[f], score);
                }
            }

            // 3. their weights, relative to the largest scores so far
            for (var f = 0u; f < FOURS; f++) {
                high[f] = four_max(high[f], i);
                let shrink = exp(top[f] - high[f]);
                total[f] *= shrink;
                sum[4u * f] *= shrink.x;
                sum[4u * f + 1u] *= shrink.y;
                sum[4u * f + 2u] *= shrink.z;
                sum[4u * f + 3u] *= shrink.w;
                top[f] = high[f];
            }
            for (var p = i; p < TILE + zero; p += WG) {
                for (var f = 0u; f < FOURS; f++) {
                    let score = weights[p * FOURS + f];
                    let weight = select(vec4<f32>(), exp(score - top[f]), score > vec4<f32>(SEEN));
                    weights[p * FOURS + f] = weight;
                    total[f] += weight;
                }
            }
            workgroupBarrier();

            // 4. values, weighted: four positions at a time, whose loads do not wait for one another
            if part < PARTS {
                for (var page = start; page < min(end, start + TILE); page += PAGE_LEN) {
                    let last = min(end - page, PAGE_LEN) - 1u;
                    let base = (tables[table + page / PAGE_LEN] * N_HEAD_KV + head_kv) * KV_LEN;
                    for (var j = part; j <= last; j += 4u * PARTS) {
                        // Positions beyond the last weigh nothing.
                        let v0 = kv_value(base, j, quad);
                        let v1 = kv_value(base, min(j + PARTS, last), quad);
                        let v2 = kv_value(base, min(j + 2u * PARTS, last), quad);
                        let v3 = kv_value(base, min(j + 3u * PARTS, last), quad);
                        let at = (page - start + j) * FOURS;
                        for (var f = 0u; f < FOURS; f++) {
                            let w0 = weights[at + f];
                            let w1 = weights[at + f + PARTS * FOURS];
                            let w2 = weights[at + f + 2u * PARTS * FOURS];
                            let w3 = weights[at + f + 3u * PARTS * FOURS];
                            let m = 4u * f;
                            sum[m] = weighted(sum[m], v0, v1, v2, v3, w0.x, w1.x, w2.x, w3.x);
                            if m + 1u < n_queries {
                                sum[m + 1u] = weighted(sum[m + 1u], v0, v1, v2, v3, w0.y, w1.y, w2.y, w3.y);
                            }
                            if m + 2u < n_queries {
                                sum[m + 2u] = weighted(sum[m + 2u], v0, v1, v2, v3, w0.z, w1.z, w2.z, w3.z);
                            }
                            if m + 3u < n_queries {
                                sum[m + 3u] = weighted(sum[m + 3u], v0, v1, v2, v3, w0.w, w1.w, w2.w, w3.w);
                            }
                        }
                    }
                }
            }
            workgroupBarrier();
        }
    }

    // 5. the parts together, through `weights`: one query of each four at a time
    for (var f = 0u; f < FOURS; f++) {
        total[f] = four_sum(total[f], i);
        if i == 0u {
            tops[f] = top[f];
            totals[f] = total[f];
        }
    }
    for (var c = 0u; c < min(4u, n_queries) + zero; c++) {
        workgroupBarrier();
        for (var f = 0u; f < FOURS; f++) {
            let low = select(sum[4u * f], sum[4u * f + 1u], c == 1u);
            let high = select(sum[4u * f + 2u], sum[4u * f + 3u], c == 3u);
            weights[f * WG + i] = select(low, high, c > 1u);
        }
        workgroupBarrier();
        for (var x = i; x < FOURS * quads + zero; x += WG) {
            let f = x / quads;
            let d = x % quads;
            let m = 4u * f + c;
            let row = t + m / HEADS;
            if m >= n_queries || row >= n_rows() {
                continue;
            }
            var state = State(tops[f][c], totals[f][c], vec4<f32>());
            for (var part = 0u; part < PARTS + zero; part++) {
                state.sum += weights[f * WG + part * quads + d];
            }

            // 6. what is in no cache: sinks, and a folded row's own position
            if SINKS && id.z == 0u {
                state = state_with(state, sink_of(head + m % HEADS), vec4<f32>());
            }
            if FOLDED && is_owner {
                state = state_with(state, own_score(m), own_value(d));
            }
            let to = row * N_HEAD + head + m % HEADS;
            if count.z == 1u {
                y[to * quads + d] = state.sum / state.total;
            } else {
                let split = (to * MAX_SPLITS + id.z) * (quads + 1u);
                partials[split + d] = state.sum;
                if d == 0u {
                    partials[split + quads] = vec4<f32>(state.top, state.total, 0.0, 0.0);
                }
            }
        }
    }
}

struct State { top: f32, total: f32, sum: vec4<f32> }

/// With one more score and its value.
fn state_with(s: State, score: f32, value: vec4<f32>) -> State {
    let top = max(s.top, score);
    let shrink = exp(s.top - top);
    let weight = exp(score - top);
    return State(top, s.total * shrink + weight, s.sum * shrink + value * weight);
}
