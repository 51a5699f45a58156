//! A loaded model and the conversations that it has.

mod rng;
mod sampler;

pub use sampler::{Sampler, SamplerOptions};
