//! pairs — biases of gate and up, whose rows are taken by turns.
//!
//! exports  expert_bias2  what is added to a row of gate and to one of up
//! bias     [2, E, M / 2]  f32: all of gate, then all of up
//! const    M  of the kernel;  N_EXPERT  E

override N_EXPERT: u32;

@group(0) @binding(3) var<storage, read> bias: array<f32>;

fn expert_bias2(expert: u32, row: u32) -> vec2<f32> {
    let i = expert * (M / 2u) + row / 2u;
    let last = arrayLength(&bias) - 1u;
    return vec2<f32>(bias[min(i, last)], bias[min(i + N_EXPERT * (M / 2u), last)]);
}
