//! store — the result of a matmul, as it is.
//!
//! exports  epilogue  takes results `row` and `row` + 1 of row t; `row` is even
//! y        [T, y_stride]  f32; the rows of this binding begin at y_offset
//! import   shape, bias, fold
//! tail     row + 1 is not written where it is m

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn epilogue(t: u32, row: u32, v: vec2<f32>) {
    let i = t * shape.y_stride + shape.y_offset + row;
    let s = v + bias2(row);
    let more = row + 1u < shape.m;
    y[i] = s.x;
    if more { y[i + 1u] = s.y; }
    fold_take(i, s, vec2<bool>(true, more));
}
