//! 4-bit language models on any GPU: GGUF files run by WGSL compute shaders.
//!
//! A GGUF file is mapped, its metadata become a [`graph::Graph`] of about a dozen kinds of op, and a back end compiles
//! that graph once into a [`backend::Program`]: the GPU's out of WGSL kernels, the CPU's out of scalar ops that are also
//! the reference. An [`engine::Engine`] runs steps of rows for as many sessions as there are. [`eval`] says how good a model
//! is at a text.

pub mod backend;
pub mod chat;
pub mod convert;
pub mod engine;
pub mod error;
pub mod eval;
mod file;
pub mod gguf;
pub mod graph;
pub mod hub;
pub mod model;
mod output;
pub mod quant;
pub mod tokenizer;

pub use error::{Error, Result};
pub use output::{check_output, discard_unfinished};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
