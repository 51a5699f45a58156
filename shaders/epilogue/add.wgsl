//! add — the result of a matmul, plus a residual.
//!
//! exports  epilogue  takes results `row` and `row` + 1 of row t; `row` is even
//! y        [T, y_stride]  f32; the rows of this binding begin at y_offset
//! r        [T, y_stride]  f32, the residual
//! import   shape, bias, fold
//! tail     row + 1 is not written where it is m

@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> r: array<f32>;

fn epilogue(t: u32, row: u32, v: vec2<f32>) {
    let i = t * shape.y_stride + shape.y_offset + row;
    let s = v + bias2(row);
    let more = row + 1u < shape.m;
    var sum = vec2<f32>(r[i] + s.x, 0.0);
    y[i] = sum.x;
    if more {
        sum.y = r[i + 1u] + s.y;
        y[i + 1u] = sum.y;
    }
    fold_take(i, sum, vec2<bool>(true, more));
}
