//! vector — a bias for each row of an expert.
//!
//! exports  expert_bias2  what is added to two rows of the result
//! bias     [E, M]  f32
//! const    M  of the kernel

@group(0) @binding(3) var<storage, read> bias: array<f32>;

fn expert_bias2(expert: u32, row: u32) -> vec2<f32> {
    let i = expert * M + row;
    let last = arrayLength(&bias) - 1u;
    return vec2<f32>(bias[min(i, last)], bias[min(i + 1u, last)]);
}
