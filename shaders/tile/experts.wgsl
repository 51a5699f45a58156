//! experts — tiles of the slots that use one expert, whose matrix they have. A row of y is a slot.
//!
//! exports  Tile, tile_at, tile_has, tile_row, tile_x, tile_w, tile_write
//!                  as `rows` has them
//! W        [E, M, K]; this binding has m of its E·M rows, from y_offset on
//! x        [T, K] or [T, USED, K]  f32
//! y        [T, USED, M]  f32, by `expert_epilogue`
//! sorted   as `expert_sort` leaves it
//! const    M;  EACH  slots that a row of x is for: 1 or USED;  TILES  as `expert_sort` has it
//! import   shape, expert_epilogue
//! tail     row 0 stands in for weight rows that are not the expert's or not in this binding, whose results are dropped

override M: u32;
override EACH: u32;
override TILES: u32;

@group(0) @binding(2) var<storage, read> sorted: array<u32>;

struct Tile {
    first: u32,
    end: u32,
    expert: u32,
}

fn tile_at(id: vec3<u32>, count: vec3<u32>, most: u32) -> Tile {
    // There may be more than 65535 of them.
    let at = 3u * min(id.z * count.y + id.y, TILES - 1u);
    let first = sorted[at + 1u];
    return Tile(first, first + sorted[at + 2u], sorted[at]);
}

fn tile_has(tile: Tile, row: u32, most: u32) -> bool {
    let first = tile.expert * M + row;
    return tile.first < tile.end && first < shape.y_offset + shape.m && first + most > shape.y_offset;
}

fn tile_row(place: u32) -> u32 {
    return sorted[3u * TILES + place];
}

fn tile_x(slot: u32) -> u32 {
    return slot / EACH;
}

// Whether the weight row exists. What lies before this binding wraps round.
fn tile_is_here(tile: Tile, row: u32) -> bool {
    return row < M && tile.expert * M + row - shape.y_offset < shape.m;
}

fn tile_w(tile: Tile, row: u32) -> u32 {
    return select(0u, tile.expert * M + row - shape.y_offset, tile_is_here(tile, row));
}

fn tile_write(tile: Tile, slot: u32, row: u32, v: vec2<f32>) {
    expert_epilogue(slot, tile.expert, row, v, vec2<bool>(tile_is_here(tile, row), tile_is_here(tile, row + 1u)));
}
