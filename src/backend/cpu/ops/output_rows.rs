//! The rows whose logits are wanted: only these go through the output layers.

/// out `[N, D]` = the rows `outputs` of x `[T, D]`.
pub(crate) fn output_rows(x: &[f32], width: usize, outputs: &[u32], out: &mut [f32]) {
    for (out, &row) in out.chunks_exact_mut(width).zip(outputs) {
        out.copy_from_slice(&x[row as usize * width..][..width]);
    }
}
