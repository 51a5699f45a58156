//! How far the fast kernels of the CPU are from exact arithmetic, and how far llama.cpp is.
//!
//! The reference stands for exact arithmetic: it is pinned to f64 data (`cpu::*_is_golden`), and its own error is a hundred
//! times less than what is measured here. `cargo nextest run fidelity --no-capture` shows the figures.

use halfbyte::backend::cpu::{self, Isa, Kernels, Options};
use halfbyte::backend::{Distribution, Limits};
use halfbyte::model::Model;

use crate::common;
use crate::golden::{self, GEMMA3, Golden, SMOLLM2};
use crate::steps::Sequence;

/// Tokens: some 2 KB of text.
const N_TOKENS: usize = 297;
/// Of llama.cpp's mean divergence: owed is a half; measured are thousandths.
const LIMIT: f64 = 0.05;

/// Logits at each position, computed in steps of `chunk` rows.
fn logits(model: &Model, tokens: &[u32], kernels: Kernels, chunk: usize) -> Vec<Vec<f32>> {
    let limits = Limits { max_outputs: 256, ..golden::limits(tokens.len(), 256) };
    let options = Options { threads: 2, kernels, ..Options::default() };
    let mut program = cpu::compile(&model.graph, model, limits, options).expect("the model compiles");
    let all: Vec<usize> = (0..tokens.len()).collect();
    Sequence::new(tokens.len()).append(&mut program, tokens, chunk, &all)
}

/// KL divergence of the second row of logits from the first.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let [p, q] = [p, q].map(|logits| Distribution::new(logits).expect("numbers"));
    let mut log_p = Vec::new();
    p.log_probabilities(&mut log_p);
    q.divergence(&log_p, f32::NEG_INFINITY)
}

/// Mean divergence of llama.cpp from exact arithmetic, of which only the ten most likely tokens are known and all others
/// together: what all of them would give is no less.
fn of_llama_cpp(golden: &Golden, exact: &[Vec<f32>]) -> f64 {
    let rest = |listed: &[f64]| (1.0 - listed.iter().map(|p| p.exp()).sum::<f64>()).max(1e-9).ln();
    let each = golden.positions.iter().zip(exact).map(|(position, exact)| {
        let exact = Distribution::new(exact).expect("numbers");
        let mut p: Vec<f64> = position.top.iter().map(|&(id, _)| exact.log_probability(id)).collect();
        let mut q: Vec<f64> = position.top.iter().map(|&(_, logit)| logit - position.log_sum_exp).collect();
        p.push(rest(&p));
        q.push(rest(&q));
        let [p, q] = [p, q].map(|x| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
        divergence(&p, &q)
    });
    each.sum::<f64>() / exact.len() as f64
}

#[expect(clippy::print_stderr, reason = "figures for those who ask for them")]
fn check(file: &str, name: &str) {
    let golden: Golden = golden::read(&format!("{name}.json"));
    let tokens = &golden.tokens[..N_TOKENS];
    let model = golden::load(&common::real_model(file));
    let exact = logits(&model, tokens, Kernels::Reference, usize::MAX);
    let llama_cpp = of_llama_cpp(&golden, &exact);
    eprintln!("{name}: mean KL divergence from exact arithmetic: llama.cpp at least {llama_cpp:.2e}");
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        // Many rows go by way of panels in f32, and attention of theirs by tiles where there are some; few rows and single ones are
        // products with 16-bit activations.
        for (what, chunk) in [("prompt", usize::MAX), ("16 tokens at a time", 16), ("tokens one by one", 1)] {
            let found = logits(&model, tokens, Kernels::Only(isa), chunk);
            let each = exact.iter().zip(&found).map(|(p, q)| divergence(p, q));
            let mean = each.sum::<f64>() / exact.len() as f64;
            eprintln!("{name}: {isa}, {what}: {mean:.2e}");
            assert!(mean <= LIMIT * llama_cpp, "{name}, {isa}, {what}: {mean:.2e}, llama.cpp has {llama_cpp:.2e}");
        }
    }
}

#[test]
fn smollm2_is_nearer_to_exact_arithmetic_than_llama_cpp() {
    check(SMOLLM2, "smollm2-long");
}

#[test]
fn gemma3_is_nearer_to_exact_arithmetic_than_llama_cpp() {
    check(GEMMA3, "gemma3-long");
}
