//! Rotary position embedding: pairs of a head's elements turn by an angle that grows with the position.
//!
//! Angles are computed in f64, since a position of 30,000 leaves an f32 angle with three digits after the point.

use crate::graph::{Rope, RopeKind};

/// (cos, sin) of the angle of each pair at `pos`, times the rope's scale.
pub(crate) fn angles(rope: &Rope, pos: u32, out: &mut [[f32; 2]]) {
    for (out, inv_freq) in out.iter_mut().zip(&rope.inv_freq) {
        let (sin, cos) = (f64::from(pos) * inv_freq).sin_cos();
        *out = [cos as f32 * rope.scale, sin as f32 * rope.scale];
    }
}

/// Rotates each head (`head_dim` numbers) of the row x; elements beyond the pairs pass through.
pub(crate) fn rope(kind: RopeKind, angles: &[[f32; 2]], x: &[f32], head_dim: usize, out: &mut [f32]) {
    out.copy_from_slice(x);
    for head in out.chunks_exact_mut(head_dim) {
        for (i, [cos, sin]) in angles.iter().enumerate() {
            let (a, b) = match kind {
                RopeKind::Norm => (2 * i, 2 * i + 1),
                RopeKind::Neox => (i, i + angles.len()),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }
}
