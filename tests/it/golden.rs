//! Golden runs: a program's logits against those of llama.cpp and against the same arithmetic in f64.
//!
//! The checks take any [`Program`]; each back end's module runs them with what it may be off by. llama.cpp rounds
//! activations, so that even exact logits differ from its own by 0.1; the f64 data are what a back end must meet.

use halfbyte::backend::{Limits, PAGE_LEN, Program};
use halfbyte::gguf::Gguf;
use halfbyte::model::Model;
use serde::Deserialize;

use crate::common::{self, nmse};
use crate::steps::{Sequence, log_sum_exp, top};

/// SmolLM2-135M-Instruct in Q4_1.
pub(crate) const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Gemma 3 270M in Q4_K_M.
pub(crate) const GEMMA3: &str = "gemma-3-270m-Q4_K_M.gguf";

/// Mean distance of real models' logits from llama.cpp's: 0.12 is its own rounding.
const TO_LLAMA_CPP: f64 = 0.15;
/// Of two logits nearer to one another than this, llama.cpp's rounding may choose either.
const NEAR_TIE: f64 = 0.3;

/// A run of llama.cpp (`NAME.json`), or the same prompt in f64 (`NAME.exact.json`).
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) tokens: Vec<u32>,
    /// Which positions are listed; all where it is missing.
    at: Option<Vec<usize>>,
    pub(crate) positions: Vec<Position>,
    #[serde(default)]
    greedy: Vec<u32>,
}

#[derive(Deserialize)]
pub(crate) struct Position {
    pub(crate) log_sum_exp: f64,
    /// The largest logits, in descending order.
    pub(crate) top: Vec<(u32, f64)>,
}

/// All logits of a tiny model at two positions, in f64.
#[derive(Deserialize)]
struct TinyExact {
    logits_of_position_7: Vec<f64>,
    logits_of_last_position: Vec<f64>,
}

pub(crate) fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = common::golden(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The model of a file.
pub(crate) fn load(path: &std::path::Path) -> Model {
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Model::from_gguf(&gguf).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A tiny model of `tests/golden/tiny`: `llama-q4_0`, …
pub(crate) fn tiny(name: &str) -> Model {
    load(&common::golden(&format!("tiny/{name}.gguf")))
}

/// Enough for one sequence of `n_ctx` positions.
pub(crate) fn limits(n_ctx: usize, max_rows: usize) -> Limits {
    Limits { max_rows, max_outputs: 16, max_seqs: 4, n_ctx, n_pages: n_ctx.div_ceil(PAGE_LEN) }
}

/// Checks a real model on the prompt `name` (`smollm2-moon`, …): logits, top-1 and the greedy continuation. `to_exact`
/// is the mean distance of the listed logits, less log-sum-exp, to the f64 data.
pub(crate) fn check_real(program: &mut dyn Program, name: &str, to_exact: f64) {
    let llama_cpp: Golden = read(&format!("{name}.json"));
    let exact: Golden = read(&format!("{name}.exact.json"));
    assert_eq!(llama_cpp.tokens, exact.tokens, "both data are of one prompt");
    let n = exact.tokens.len();
    let at = exact.at.clone().unwrap_or_else(|| (0..n).collect());
    assert_eq!(at.last(), Some(&(n - 1)), "the last position is listed, where the continuation begins");

    let mut sequence = Sequence::new(program.limits().n_ctx);
    let logits = sequence.append(program, &exact.tokens, usize::MAX, &at);
    let listed: Vec<&Position> = at.iter().map(|&i| &llama_cpp.positions[i]).collect();
    let exact: Vec<&Position> = exact.positions.iter().collect();
    check_positions(&format!("{name} to f64"), &logits, &exact, to_exact);
    check_positions(&format!("{name} to llama.cpp"), &logits, &listed, TO_LLAMA_CPP);

    let last = logits.last().expect("a prompt has tokens").clone();
    check_greedy(program, &mut sequence, name, last, &llama_cpp.greedy, NEAR_TIE);
}

/// Prints (for those who ask) and checks the mean distance of the listed logits, less log-sum-exp, and the top-1 of each position.
#[expect(clippy::print_stderr, reason = "figures for those who ask for them")]
fn check_positions(name: &str, logits: &[Vec<f32>], expected: &[&Position], limit: f64) {
    assert_eq!(logits.len(), expected.len());
    let mut distances = Vec::new();
    for (i, (logits, expected)) in logits.iter().zip(expected).enumerate() {
        let lse = log_sum_exp(logits);
        for &(id, logit) in &expected.top {
            let found = f64::from(logits[id as usize]) - lse;
            distances.push((found - (logit - expected.log_sum_exp)).abs());
        }
        let (first, second) = (expected.top[0], expected.top[1]);
        let found = top(logits);
        assert!(
            found == first.0 || first.1 - second.1 < NEAR_TIE,
            "{name}: listed position {i}: top-1 is {found} instead of {} with a gap of {:.3}",
            first.0,
            first.1 - second.1
        );
    }
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    eprintln!("{name}: listed logits are off by {mean:.5} on average");
    assert!(mean <= limit, "{name}: listed logits are off by {mean:.5} on average (limit {limit})");
}

/// Continues from `logits`; the ids are llama.cpp's up to the first where two were nearly equal.
fn check_greedy(
    program: &mut dyn Program,
    sequence: &mut Sequence,
    name: &str,
    mut logits: Vec<f32>,
    expected: &[u32],
    near_tie: f64,
) {
    assert!(!expected.is_empty(), "{name} has a continuation");
    for (i, &id) in expected.iter().enumerate() {
        let found = top(&logits);
        if found != id {
            let gap = f64::from(logits[found as usize] - logits[id as usize]);
            assert!(gap < near_tie, "{name}: generated token {i} is {found} instead of {id}, by {gap:.3}");
            return;
        }
        logits = sequence.append(program, &[id], 1, &[0]).remove(0);
    }
}

/// Checks a tiny model: all logits at two positions against f64, where there are such data, and the listed ones of all
/// positions against llama.cpp, which has an error of its own by format.
pub(crate) fn check_tiny(program: &mut dyn Program, name: &str, to_exact: f64, to_llama_cpp: f64) {
    let golden: Golden = read(&format!("tiny/{name}.json"));
    let all: Vec<usize> = (0..golden.tokens.len()).collect();
    let mut sequence = Sequence::new(program.limits().n_ctx);
    let logits = sequence.append(program, &golden.tokens, usize::MAX, &all);

    if common::golden(&format!("tiny/{name}.exact.json")).exists() {
        let exact: TinyExact = read(&format!("tiny/{name}.exact.json"));
        let last = logits.last().expect("a prompt has tokens");
        for (what, found, expected) in
            [("7", &logits[7], &exact.logits_of_position_7), ("the last", last, &exact.logits_of_last_position)]
        {
            let error = nmse(found, expected);
            assert!(error <= to_exact, "{name}, position {what}: nmse {error:.1e} to f64 (limit {to_exact:.0e})");
        }
    }

    let mut found = Vec::new();
    let mut expected = Vec::new();
    for (logits, position) in logits.iter().zip(&golden.positions) {
        for &(id, logit) in &position.top {
            found.push(logits[id as usize]);
            expected.push(logit);
        }
    }
    let error = nmse(&found, &expected);
    assert!(error <= to_llama_cpp, "{name}: nmse {error:.1e} to llama.cpp (limit {to_llama_cpp:.0e})");

    let last = logits.last().expect("a prompt has tokens").clone();
    // Six standard deviations of llama.cpp's error.
    let near_tie = 6.0 * (to_llama_cpp * mean_square(&last)).sqrt();
    check_greedy(program, &mut sequence, name, last, &golden.greedy, near_tie);
}

fn mean_square(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64
}

/// The tiny models, with llama.cpp's own error: it rounds activations to the format's companion, and takes GELU from a table of
/// f16s. What else differs is rounding to f32, of which four layers make 2e-9.
pub(crate) const TINY: &[(&str, f64)] = &[
    ("llama-f32", 1e-9),
    ("llama-f16", 1e-6),
    ("llama-bf16", 1e-4),
    ("llama-q4_0", 1e-3),
    ("llama-q4_1", 1e-3),
    ("llama-q5_0", 1e-3),
    ("llama-q5_1", 1e-3),
    ("llama-q8_0", 1e-3),
    ("llama-q2_k", 1e-3),
    ("llama-q3_k_s", 1e-3),
    ("llama-q4_k_s", 1e-3),
    ("llama-q5_k_s", 1e-3),
    ("llama-q6_k", 1e-3),
    ("llama-iq4_nl", 1e-3),
    ("llama-iq4_xs", 1e-3),
    ("llama-mxfp4_moe", 1e-3),
    ("deepseek-f32", 1e-8),
    ("gemma-f32", 1e-7),
    ("gemma2-q8_0", 1e-3),
    ("gemma3-q8_0", 1e-3),
    ("glm4moe-f32", 1e-8),
    ("glm4moe-plain", 1e-8),
    ("gpt-oss-f32", 1e-8),
    ("granite-f32", 1e-8),
    ("granitemoe-f32", 1e-8),
    ("llama-freqs", 1e-8),
    ("llama-linear", 1e-8),
    ("llama-yarn", 1e-8),
    ("mixtral-q8_0", 1e-3),
    ("olmo2-f32", 1e-8),
    ("olmo2-window", 1e-8),
    ("olmoe-f32", 1e-8),
    ("phi3-long", 1e-8),
    ("phi3-q8_0", 1e-3),
    ("qwen2-q8_0", 1e-3),
    ("qwen2moe-f32", 1e-8),
    ("qwen3-q8_0", 1e-3),
    ("qwen3moe-q8_0", 1e-3),
    ("smollm3-f32", 1e-8),
    ("smollm3-q8_0", 1e-3),
];
