//! none — nothing is made of the results besides the results.
//!
//! exports  fold_take    takes results `i` and `i` + 1 of a row; `there` tells which of them exist
//!          fold_finish  ends the kernel

fn fold_take(i: u32, v: vec2<f32>, there: vec2<bool>) {
}

fn fold_finish(workgroup: u32, i: u32) {
}
