//! gated — act(gate) · up, of an expert whose rows are gate and up by turns.
//!
//! exports  expert_epilogue  takes gate and up, results `row` and `row` + 1 of a slot; `there` tells whether they exist
//! y        [T, USED, M / 2]  f32
//! const    M  of the kernel: even, so that no binding parts a pair
//! import   expert_bias, act

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn expert_epilogue(slot: u32, expert: u32, row: u32, v: vec2<f32>, there: vec2<bool>) {
    let s = v + expert_bias2(expert, row);
    if there.x { y[(slot * M + row) / 2u] = glu(s.x, s.y); }
}
