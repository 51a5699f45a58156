//! gelu — the tanh form of GELU: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
//!
//! exports  act
//! note     the argument is bounded: some GPUs compute tanh by exponentials, which overflow

fn act(x: f32) -> f32 {
    let u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    return 0.5 * x * (1.0 + tanh(clamp(u, -15.0, 15.0)));
}
