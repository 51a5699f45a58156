//! vector — a matmul with a bias per weight row.
//!
//! exports  bias2  what is added to two rows of the result
//! bias     [y_offset + m]  f32, indexed like the result
//! import   shape

@group(0) @binding(3) var<storage, read> bias: array<f32>;

fn bias2(row: u32) -> vec2<f32> {
    let i = shape.y_offset + row;
    return vec2<f32>(bias[i], bias[min(i + 1u, arrayLength(&bias) - 1u)]);
}
