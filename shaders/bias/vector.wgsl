//! vector — a matmul with a bias per weight row.
//!
//! exports  bias4  what is added to four rows of the result
//! bias     [Y_OFFSET + M]  f32, indexed like the result

@group(0) @binding(3) var<storage, read> bias: array<f32>;

fn bias4(row: u32) -> vec4<f32> {
    let i = Y_OFFSET + row;
    let last = Y_OFFSET + M - 1u;
    return vec4<f32>(bias[i], bias[min(i + 1u, last)], bias[min(i + 2u, last)], bias[min(i + 3u, last)]);
}
