//! store — the result of a matmul, as it is.
//!
//! exports  epilogue  takes four results of row t, from `row` on
//! y        [T, Y_STRIDE]  f32; the part's rows begin at Y_OFFSET
//! import   bias
//! tail     rows ≥ M are not written

override Y_STRIDE: u32;
override Y_OFFSET: u32;

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn epilogue(t: u32, row: u32, v: vec4<f32>) {
    let i = t * Y_STRIDE + Y_OFFSET + row;
    let r = v + bias4(row);
    y[i] = r.x;
    if M % 4u == 0u || row + 1u < M { y[i + 1u] = r.y; }
    if M % 4u == 0u || row + 2u < M { y[i + 2u] = r.z; }
    if M % 4u == 0u || row + 3u < M { y[i + 3u] = r.w; }
}
