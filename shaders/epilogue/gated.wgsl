//! gated — act(gate) · up, of a weight whose rows are gate and up by turns.
//!
//! exports  epilogue  takes gate, up, gate, up of row t, from `row` on
//! y        [T, Y_STRIDE]  f32; the part's rows begin at Y_OFFSET / 2
//! import   bias, act
//! tail     rows ≥ M are not written; M is even

override Y_STRIDE: u32;
override Y_OFFSET: u32;

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn epilogue(t: u32, row: u32, v: vec4<f32>) {
    let i = t * Y_STRIDE + (Y_OFFSET + row) / 2u;
    let s = v + bias4(row);
    y[i] = act(s.x) * s.y;
    if M % 4u == 0u || row + 2u < M { y[i + 1u] = act(s.z) * s.w; }
}
