//! expert_sort — the slots of a step by expert, in tiles of one expert each.
//!
//! A slot is one of the USED uses that a row has for an expert: slot u of row t is t·USED + u.
//!
//! route   [T, 2·USED]  f32: numbers of experts, then their weights
//! step    T, N
//! y       [TILES, 3]   expert, first place and slots of each tile, no slots where there is no tile; then the slots [T·USED]
//! grid    1 workgroup
//! group   invocation i takes slots, experts and tiles i, i+WG, …
//! const   E, USED;  TILE  slots in a tile;  TILES  room for them;  WG
//! import
//! tail    the last tile of an expert has what is left
//! exact   integers; the order of an expert's slots is any
//! cpu     src/backend/cpu/experts.rs

override E: u32;
override USED: u32;
override TILE: u32;
override TILES: u32;
override WG: u32;

@group(0) @binding(0) var<storage, read> route: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<uniform> step: vec4<u32>;

var<workgroup> counts: array<atomic<u32>, E>;
var<workgroup> places: array<atomic<u32>, E>;

fn expert_of(slot: u32) -> u32 {
    return u32(route[slot / USED * 2u * USED + slot % USED]);
}

fn tiles_of(count: u32) -> u32 {
    return (count + TILE - 1u) / TILE;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) i: u32) {
    let n = step.x * USED;

    // 1. slots of each expert
    for (var e = i; e < E; e += WG) {
        atomicStore(&counts[e], 0u);
    }
    workgroupBarrier();
    for (var slot = i; slot < n; slot += WG) {
        atomicAdd(&counts[expert_of(slot)], 1u);
    }
    workgroupBarrier();

    // 2. behind those of all experts before it lie its own, in tiles
    for (var e = i; e < E; e += WG) {
        var place = 0u;
        var tile = 0u;
        for (var f = 0u; f < e; f++) {
            let count = atomicLoad(&counts[f]);
            place += count;
            tile += tiles_of(count);
        }
        atomicStore(&places[e], place);
        let count = atomicLoad(&counts[e]);
        for (var k = 0u; k < count; k += TILE) {
            y[3u * tile] = e;
            y[3u * tile + 1u] = place + k;
            y[3u * tile + 2u] = min(TILE, count - k);
            tile++;
        }
    }
    var tiles = 0u;
    for (var e = 0u; e < E; e++) {
        tiles += tiles_of(atomicLoad(&counts[e]));
    }
    for (var tile = tiles + i; tile < TILES; tile += WG) {
        y[3u * tile + 2u] = 0u;
    }
    workgroupBarrier();

    // 3. each slot to its place
    for (var slot = i; slot < n; slot += WG) {
        y[3u * TILES + atomicAdd(&places[expert_of(slot)], 1u)] = slot;
    }
}
