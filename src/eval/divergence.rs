//! How far a model's predictions are from those of another, token by token: KL divergence and what goes with it.

use super::logits_file::LogitsFile;
use super::perplexity::Perplexity;
use super::statistics::{Estimate, percentile};
use super::steps::{Part, Steps, common_limits, in_parallel};
use super::windows::Windows;
use crate::backend::{Distribution, Program};
use crate::error::Result;

/// Whose predictions are taken for right.
pub enum Base<'a> {
    /// Those that were saved, of the same windows.
    File(&'a mut LogitsFile),
    /// Those of a program with the same vocabulary, which runs beside the other one.
    Program(&'a mut dyn Program),
}

/// What the base says about a step's outputs.
enum BaseRows<'a> {
    /// As they are in this file.
    Encoded(&'a LogitsFile, Vec<u8>),
    /// `[N, V]`
    Logits(Vec<f32>),
}

/// About one scored token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// -ln of the probability that the model gives to the token that comes.
    pub nll: f64,
    /// The same by the base.
    pub base_nll: f64,
    /// KL divergence from the base's distribution, in nats.
    pub kld: f64,
    /// Whether both find the same token most likely.
    pub same_top: bool,
}

/// Compares the predictions of `program` with those of `base` at each scored token of `windows`, in their order. Rows of logits are
/// read by `n_threads` threads; `progress` is told after each step what is known by then.
///
/// # Errors
/// If a device fails, logits are not numbers, or the file can't be read.
///
/// # Panics
/// If a program has no room for a window (see [`engine_options`](super::engine_options)), or one vocabulary is another.
pub fn divergence(
    program: &mut dyn Program,
    windows: &Windows,
    n_threads: usize,
    base: &mut Base<'_>,
    progress: &mut dyn FnMut(&[Divergence]),
) -> Result<Vec<Divergence>> {
    let n_vocab = program.graph().n_vocab;
    let limits = match base {
        Base::File(_) => program.limits(),
        Base::Program(base) => common_limits(program.limits(), base.limits()),
    };
    let mut steps = Steps::new(windows, limits);
    let mut found = Vec::with_capacity(windows.len() * windows.n_scored());
    while let Some(part) = steps.next_part() {
        let logits = steps.run(program, &part)?;
        let base = base.rows(&steps, &part)?;
        found.extend(in_parallel(part.outputs.len(), n_threads, |i| {
            let row = Distribution::new(&logits[i * n_vocab..][..n_vocab])?;
            base.compare(i, &row, windows.scored_token(part.scored.start + i))
        })?);
        progress(&found);
    }
    Ok(found)
}

impl Base<'_> {
    /// What it says about the outputs of `part`, which comes after all that it was asked for before.
    fn rows(&mut self, steps: &Steps<'_>, part: &Part) -> Result<BaseRows<'_>> {
        match self {
            Base::File(file) => {
                let bytes = file.read(part.outputs.len())?;
                Ok(BaseRows::Encoded(file, bytes))
            }
            Base::Program(program) => Ok(BaseRows::Logits(steps.run(*program, part)?)),
        }
    }
}

impl BaseRows<'_> {
    /// Output `i`, which predicts `token`, beside what `row` says.
    fn compare(&self, i: usize, row: &Distribution<'_>, token: u32) -> Result<Divergence> {
        let n_vocab = row.logits().len();
        let mut log_p = Vec::with_capacity(n_vocab);
        let (top, floor) = match self {
            BaseRows::Logits(logits) => {
                let base = Distribution::new(&logits[i * n_vocab..][..n_vocab])?;
                base.log_probabilities(&mut log_p);
                (base.top, f32::NEG_INFINITY)
            }
            BaseRows::Encoded(file, bytes) => {
                let floor = file.decode(i, bytes, &mut log_p)?;
                (Distribution::new(&log_p)?.top, floor)
            }
        };
        let (nll, of_base) = (-row.log_probability(token), log_p[token as usize]);
        // As in the divergence, a token below the floor counts as near as it can be.
        let base_nll = if of_base > floor { -f64::from(of_base) } else { nll.max(-f64::from(of_base)) };
        Ok(Divergence { nll, base_nll, kld: row.divergence(&log_p, floor), same_top: top == row.top })
    }
}

/// What all tokens say together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Of the model.
    pub perplexity: Perplexity,
    /// Of the base.
    pub base_perplexity: Perplexity,
    /// Perplexity of the model ÷ that of the base.
    pub ratio: Estimate,
    /// KL divergence in nats.
    pub kld: Estimate,
    /// The KL divergence that half of the tokens do not reach.
    pub median_kld: f64,
    /// The one that 99 % of the tokens do not reach.
    pub p99_kld: f64,
    /// The largest.
    pub max_kld: f64,
    /// How often both find the same token most likely, as a fraction.
    pub same_top: Estimate,
    /// Root of the mean square of how much probability the token that comes has more or less.
    pub rms_dp: Estimate,
}

impl Summary {
    /// Of at least one token.
    pub fn of(tokens: &[Divergence]) -> Self {
        let samples = |f: fn(&Divergence) -> f64| tokens.iter().map(f);
        let mut klds: Vec<f64> = samples(|token| token.kld).collect();
        klds.sort_unstable_by(f64::total_cmp);
        // Both perplexities rise and fall together, so that their ratio is better known than either.
        let log_ratio = Estimate::of(samples(|token| token.nll - token.base_nll));
        let squares = Estimate::of(samples(|token| ((-token.nll).exp() - (-token.base_nll).exp()).powi(2)));
        let root_slope = if squares.mean > 0.0 { 0.5 / squares.mean.sqrt() } else { 0.0 };
        Self {
            perplexity: Perplexity::of_samples(samples(|token| token.nll)),
            base_perplexity: Perplexity::of_samples(samples(|token| token.base_nll)),
            ratio: log_ratio.map(f64::exp, log_ratio.mean.exp()),
            kld: Estimate::of(klds.iter().copied()),
            median_kld: percentile(&klds, 0.5),
            p99_kld: percentile(&klds, 0.99),
            max_kld: percentile(&klds, 1.0),
            same_top: Estimate::of(samples(|token| f64::from(u8::from(token.same_top)))),
            rms_dp: squares.map(f64::sqrt, root_slope),
        }
    }
}
