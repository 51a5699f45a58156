//! store — the result of a product with an expert, as it is.
//!
//! exports  expert_epilogue  takes results `row` and `row` + 1 of a slot; `there` tells which of them exist
//! y        [T, USED, M]  f32
//! const    M  of the kernel
//! import   expert_bias

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn expert_epilogue(slot: u32, expert: u32, row: u32, v: vec2<f32>, there: vec2<bool>) {
    let i = slot * M + row;
    let s = v + expert_bias2(expert, row);
    if there.x { y[i] = s.x; }
    if there.y { y[i + 1u] = s.y; }
}
