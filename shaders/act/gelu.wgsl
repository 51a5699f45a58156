//! gelu — the tanh form of GELU: 0.5 gate (1 + tanh(√(2/π) (gate + 0.044715 gate³))) · up
//!
//! exports  glu
//! note     the argument is bounded: some GPUs compute tanh by exponentials, which overflow

fn glu(gate: f32, up: f32) -> f32 {
    let u = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate);
    return 0.5 * gate * (1.0 + tanh(clamp(u, -15.0, 15.0))) * up;
}
