//! The CPU back end: golden runs, and the promise that a row's bits depend on nothing but the row.

use halfbyte::backend::Limits;
use halfbyte::backend::cpu::{self, CpuProgram, Options};
use halfbyte::model::Model;

use crate::common;
use crate::golden::{self, GEMMA3, SMOLLM2, TINY};

/// Mean distance of real models' listed logits from f64.
const REAL: f64 = 0.001;
/// Normalized mean squared error of tiny models' logits to f64.
const TINY_NMSE: f64 = 1e-10;

fn compile(model: &Model, limits: Limits) -> CpuProgram {
    let options = Options { threads: 2, keep_tensors: false };
    cpu::compile(&model.graph, model, limits, options).expect("the model compiles")
}

fn check_real(file: &str, name: &str, n_ctx: usize) {
    let model = golden::load(&common::real_model(file));
    golden::check_real(&mut compile(&model, golden::limits(n_ctx, 256)), name, REAL);
}

#[test]
fn smollm2_moon_is_golden() {
    check_real(SMOLLM2, "smollm2-moon", 64);
}

#[test]
fn smollm2_chat_is_golden() {
    check_real(SMOLLM2, "smollm2-chat", 128);
}

#[test]
fn smollm2_long_is_golden() {
    check_real(SMOLLM2, "smollm2-long", 320);
}

#[test]
fn gemma3_moon_is_golden() {
    check_real(GEMMA3, "gemma3-moon", 64);
}

#[test]
fn gemma3_long_is_golden() {
    check_real(GEMMA3, "gemma3-long", 1280);
}

#[test]
fn tiny_models_are_golden() {
    for &(name, to_llama_cpp) in TINY {
        let model = golden::tiny(name);
        golden::check_tiny(&mut compile(&model, golden::limits(64, 32)), name, TINY_NMSE, to_llama_cpp);
    }
}
