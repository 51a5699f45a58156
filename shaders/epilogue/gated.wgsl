//! gated — act(gate) · up, of a weight whose rows are gate and up by turns.
//!
//! exports  epilogue  takes gate and up, results `row` and `row` + 1 of row t
//! y        [T, y_stride]  f32; the rows of this binding begin at y_offset / 2
//! import   shape, bias, act
//! tail     none: m is even

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn epilogue(t: u32, row: u32, v: vec2<f32>) {
    let s = v + bias2(row);
    y[t * shape.y_stride + (shape.y_offset + row) / 2u] = glu(s.x, s.y);
}
