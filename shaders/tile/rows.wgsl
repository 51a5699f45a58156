//! rows — tiles of neighbouring rows of x, all of which have the same matrix.
//!
//! exports  Tile        a workgroup's places in an order of the rows of y: from `first` on, before `end`
//!          tile_at     that of a workgroup, which takes `most`
//!          tile_has    whether any of `most` weight rows from `row` on is there for it
//!          tile_row    the row of y at a place
//!          tile_x      the row of x that a row of y is made of
//!          tile_w      where a weight row lies, or one that does, if it does not exist
//!          tile_write  results `row` and `row` + 1 of a row of y, if they exist; `row` is even
//! import   shape, epilogue

@group(0) @binding(4) var<uniform> step: vec4<u32>; // T of the step, N of the outputs

struct Tile {
    first: u32,
    end: u32,
}

fn tile_at(id: vec3<u32>, count: vec3<u32>, most: u32) -> Tile {
    return Tile(id.y * most, step[shape.section]);
}

fn tile_has(tile: Tile, row: u32, most: u32) -> bool {
    return true;
}

fn tile_row(place: u32) -> u32 {
    return place;
}

fn tile_x(t: u32) -> u32 {
    return t;
}

fn tile_w(tile: Tile, row: u32) -> u32 {
    return min(row, shape.m - 1u);
}

fn tile_write(tile: Tile, t: u32, row: u32, v: vec2<f32>) {
    if row < shape.m { epilogue(t, row, v); }
}
