//! Rotary position embedding: pairs of a head's elements turn by an angle that grows with the position.
//!
//! Angles are computed in f64, since a position of 30,000 leaves an f32 angle with three digits after the point.

use crate::backend::cpu::multiversion::multiversion;
use crate::graph::{Rope, RopeKind};

/// (cos, sin) of the angle of each pair at `pos`, times the rope's scale.
pub(crate) fn angles(rope: &Rope, pos: u32, out: &mut [[f32; 2]]) {
    for (out, inv_freq) in out.iter_mut().zip(&rope.inv_freq) {
        let (sin, cos) = (f64::from(pos) * inv_freq).sin_cos();
        *out = [cos as f32 * rope.scale, sin as f32 * rope.scale];
    }
}

multiversion! {
    /// Rotates each head (`head_dim` numbers) of the row x; elements beyond the pairs pass through.
    pub(crate) fn rope(kind: RopeKind, angles: &[[f32; 2]], x: &[f32], head_dim: usize, out: &mut [f32]) {
        let turned = |[cos, sin]: [f32; 2], [a, b]: [f32; 2]| [a * cos - b * sin, a * sin + b * cos];
        let n = angles.len();
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            let (x, rest) = x.split_at(2 * n);
            let (out, out_rest) = out.split_at_mut(2 * n);
            out_rest.copy_from_slice(rest);
            match kind {
                RopeKind::Norm => {
                    let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
                    pairs.zip(angles).for_each(|((x, out), angle)| *out = turned(*angle, *x));
                }
                RopeKind::Neox => {
                    let ((a, b), (out_a, out_b)) = (x.split_at(n), out.split_at_mut(n));
                    for ((((&a, &b), out_a), out_b), angle) in a.iter().zip(b).zip(out_a).zip(out_b).zip(angles) {
                        [*out_a, *out_b] = turned(*angle, [a, b]);
                    }
                }
            }
        }
    }
}
