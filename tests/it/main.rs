//! Integration tests: one binary, one module a subject.

mod ahead;
mod attention;
mod cli;
mod common;
mod cpu;
mod device_time;
mod draw;
mod engine;
mod eval;
mod fidelity;
mod gguf;
mod golden;
mod gpu;
mod hub;
mod inspect;
mod layout;
mod model;
mod ops;
mod quant;
mod quant_gpu;
mod shapes;
mod steps;
mod tokenizer;
