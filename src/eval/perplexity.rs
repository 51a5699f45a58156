//! Perplexity: e to the mean of how surprising each scored token is.

use std::fmt;

use super::logits_file::{LogitsWriter, encode};
use super::statistics::Estimate;
use super::steps::{Steps, in_parallel};
use super::windows::Windows;
use crate::backend::{Distribution, Program};
use crate::error::Result;

/// How surprising each scored token of `windows` is to the model, -ln p, in their order. Rows of logits are read by `n_threads`
/// threads and can be saved; `progress` is told after each step what is known by then.
///
/// # Errors
/// If the device fails, its logits are not numbers, or they can't be saved.
///
/// # Panics
/// If the program has no room for a window (see [`engine_options`](super::engine_options)), or another vocabulary.
pub fn perplexity(
    program: &mut dyn Program,
    windows: &Windows,
    n_threads: usize,
    mut save: Option<&mut LogitsWriter>,
    progress: &mut dyn FnMut(&[f64]),
) -> Result<Vec<f64>> {
    let n_vocab = program.graph().n_vocab;
    let mut steps = Steps::new(windows, program.limits());
    let mut scores = Vec::with_capacity(windows.len() * windows.n_scored());
    while let Some(part) = steps.next_part() {
        let logits = steps.run(program, &part)?;
        let is_saved = save.is_some();
        let rows = in_parallel(part.outputs.len(), n_threads, |i| {
            let row = Distribution::new(&logits[i * n_vocab..][..n_vocab])?;
            let nll = -row.log_probability(windows.scored_token(part.scored.start + i));
            Ok((nll, is_saved.then(|| encode(&row))))
        })?;
        for (nll, bytes) in rows {
            scores.push(nll);
            if let (Some(save), Some(bytes)) = (&mut save, bytes) {
                save.write(&bytes)?;
            }
        }
        progress(&scores);
    }
    Ok(scores)
}

/// A perplexity and its error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// e to the mean of -ln p.
    pub value: f64,
    /// Its standard error, as if tokens were independent.
    pub error: f64,
}

impl Perplexity {
    /// That of tokens by their -ln p, of which there is at least one.
    pub fn of(scores: &[f64]) -> Self {
        Self::of_samples(scores.iter().copied())
    }

    pub(super) fn of_samples(scores: impl Iterator<Item = f64> + Clone) -> Self {
        let nll = Estimate::of(scores);
        let Estimate { mean: value, error } = nll.map(f64::exp, nll.mean.exp());
        Self { value, error }
    }
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} ± {:.4}", self.value, self.error)
    }
}
