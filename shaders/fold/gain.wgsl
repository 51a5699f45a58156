//! gain — the results times the gain of the RMSNorm that comes next, and their sum of squares by workgroup.
//!
//! exports  fold_take    takes results `i` and `i` + 1 of a row; `there` tells which of them exist
//!          fold_finish  ends the kernel
//! gain     [M]      f32, the weight of the norm
//! z        [M]      f32, the results times the gain
//! parts    [parts]  f32, one for each workgroup
//! import   shape, reduce
//! note     fold_finish holds barriers: to be called in uniform control flow

@group(0) @binding(10) var<storage, read_write> fold_parts: array<f32>;
@group(0) @binding(8) var<storage, read> fold_gain: array<f32>;
@group(0) @binding(9) var<storage, read_write> fold_z: array<f32>;

var<private> fold_sum: f32;

fn fold_take(i: u32, v: vec2<f32>, there: vec2<bool>) {
    if there.x { fold_z[i] = v.x * fold_gain[i]; }
    if there.y { fold_z[i + 1u] = v.y * fold_gain[i + 1u]; }
    let w = select(vec2<f32>(), v, there);
    fold_sum += dot(w, w);
}

fn fold_finish(workgroup: u32, i: u32) {
    let sum = reduce_sum(fold_sum, i);
    if i == 0u {
        fold_parts[shape.first_part + workgroup] = sum;
    }
}
