//! swiglu_oai — gate · sigmoid(1.702 gate) · (up + 1), with gate at most 7 and up within ±7
//!
//! exports  glu

fn glu(gate: f32, up: f32) -> f32 {
    let g = min(gate, 7.0);
    return g / (1.0 + exp(-1.702 * g)) * (clamp(up, -7.0, 7.0) + 1.0);
}
