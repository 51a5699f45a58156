//! turn — a head normalized and rotated, element by element.
//!
//! exports turned       element `e` of the head that begins at `head[at]`, but for the factor `head_scale`; `angles_at` is
//!                      where the row's angles begin
//!         turned_quad  four of them
//! const   N_ROT, NEOX
//! import  head_norm
//! tail    elements ≥ N_ROT are not rotated
//! note    elements are read where they are needed rather than rotated in place: no barrier, and heads stay as they are
//! cpu     src/backend/cpu/ops/rope.rs

override N_ROT: u32;
override NEOX: u32;

fn turned(at: u32, e: u32, is_q: bool, angles_at: u32) -> f32 {
    let x = head[at + e] * head_weight(is_q, e);
    if e >= N_ROT {
        return x;
    }
    let half = N_ROT / 2u;
    let second = select(e & 1u, u32(e >= half), NEOX == 1u) == 1u;
    let other = select(e ^ 1u, select(e + half, e - half, second), NEOX == 1u);
    let turn = angles[angles_at + select(e >> 1u, select(e, e - half, second), NEOX == 1u)];
    let y = head[at + other] * head_weight(is_q, other);
    return x * turn.x + select(-y, y, second) * turn.y;
}

fn turned_quad(at: u32, d: u32, is_q: bool, angles_at: u32) -> vec4<f32> {
    return vec4<f32>(
        turned(at, 4u * d, is_q, angles_at),
        turned(at, 4u * d + 1u, is_q, angles_at),
        turned(at, 4u * d + 2u, is_q, angles_at),
        turned(at, 4u * d + 3u, is_q, angles_at),
    );
}
