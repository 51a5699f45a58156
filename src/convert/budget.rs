//! Formats for a limit on quality: as few bytes as a search finds, at a measured distance to the model itself.
//!
//! The distance is the mean Kullback-Leibler divergence of the next token's probabilities, over the positions of a text. To
//! find out what a matrix is worth, it alone is stored in the worst format: the divergence that this causes, and how errors of
//! weights shrink from format to format, predict all others, since small divergences add up and grow with the square of an
//! error. Then bytes go where they take off most, one tensor at a time, until what is predicted is within the limit. What
//! counts is measured: the model so chosen is run, and the prediction corrected by what came out.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::backend::cpu;
use crate::backend::{Distribution, Limits, Output, PAGE_LEN, Program, Row, Step, Want};
use crate::convert::plan::Planned;
use crate::convert::quantize::{self, Options, Subject, is_quantized};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::graph::Graph;
use crate::model::Model;
use crate::quant::{self, Format, Weight, Weights};
use crate::tokenizer;

/// Formats that a tensor can get, each better than the one before.
const LADDER: &[&str] = &["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16"];
/// Times that a choice is measured and corrected.
const MAX_ROUNDS: usize = 12;
/// Rows of a tensor whose errors stand for all.
const SAMPLED_ROWS: usize = 64;

/// What to keep within which limit.
#[derive(Debug, Clone)]
pub struct Budget<'a> {
    /// The mean divergence in nats that is allowed.
    pub max_kld: f64,
    /// The text whose next tokens are predicted.
    pub text: &'a str,
    /// Tokens of it that are read, from its beginning.
    pub n_tokens: usize,
    /// Threads that compute.
    pub threads: usize,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The format of each tensor, for [`Options::chosen`].
    pub chosen: HashMap<String, &'static Format>,
    /// The divergence of all tensors in the worst format.
    pub floor_kld: f64,
    /// The divergence of what was chosen, measured.
    pub kld: f64,
}

/// How far a search is, for people: what it does, and how many of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> ControlFlow<()>;

/// Chooses a format for each matrix, from that of `options.mix` upwards.
///
/// # Errors
/// If the model cannot be run, the text is too short, or the limit is below what the best formats reach.
pub fn search(gguf: &Gguf, options: &Options, budget: &Budget<'_>, progress: Progress<'_>) -> Result<Choice> {
    let judge = Judge::new(gguf, budget)?;
    let mut tensors = ladders(gguf, &judge, options)?;
    let floor_kld = judge.kld_of(gguf, &tensors, options)?;
    if floor_kld > budget.max_kld {
        measure(gguf, &judge, options, &mut tensors, progress)?;
    }
    let mut kld = floor_kld;
    let mut goal = budget.max_kld;
    for round in 0..MAX_ROUNDS {
        if kld <= budget.max_kld {
            let chosen = tensors.iter().map(|tensor| (tensor.info.name.clone(), tensor.format())).collect();
            return Ok(Choice { chosen, floor_kld, kld });
        }
        stop(progress("measuring choices", round, MAX_ROUNDS))?;
        if !raise(&mut tensors, goal) {
            break;
        }
        kld = judge.kld_of(gguf, &tensors, options)?;
        // A prediction that was too good by a factor is corrected by it.
        goal *= (budget.max_kld / kld).min(0.95);
    }
    Err(Error::Usage {
        what: format!("no choice of formats was found within a divergence of {} (the best: {kld:.5})", budget.max_kld),
        hint: "allow a larger divergence (`--max-kld`)".into(),
    })
}

fn stop(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Interrupted) } else { Ok(()) }
}

/// A tensor, and the formats that it can have.
struct Tensor<'a> {
    info: &'a TensorInfo,
    /// From the smallest to the largest.
    steps: Vec<StepUp>,
    /// Which of them it has.
    at: usize,
    /// Divergence for each unit of error.
    worth: f64,
}

/// One of the formats of a tensor.
struct StepUp {
    format: &'static Format,
    n_bytes: usize,
    /// Sum of squared errors of sampled weights, those of important columns counting more.
    error: f64,
}

impl Tensor<'_> {
    fn format(&self) -> &'static Format {
        self.steps[self.at].format
    }

    fn predicted(&self, at: usize) -> f64 {
        self.worth * self.steps[at].error
    }

    /// The step up that takes most off the divergence for each byte that it costs, and how much. It may leave out others: where a
    /// source lies on a grid, a larger format can be worse than a smaller one.
    fn best_step(&self) -> Option<(f64, usize)> {
        let gain = |to: usize| {
            let bytes = self.steps[to].n_bytes - self.steps[self.at].n_bytes;
            (self.predicted(self.at) - self.predicted(to)) / bytes as f64
        };
        (self.at + 1..self.steps.len()).map(|to| (gain(to), to)).max_by(|(a, _), (b, _)| a.total_cmp(b))
    }
}

/// Goes up, step by step, until the predicted divergence is within `goal`; `false` if there is nothing to go up.
fn raise(tensors: &mut [Tensor<'_>], goal: f64) -> bool {
    let mut raised = false;
    let mut predicted: f64 = tensors.iter().map(|tensor| tensor.predicted(tensor.at)).sum();
    while predicted > goal || !raised {
        let steps = tensors.iter_mut().filter_map(|tensor| Some((tensor.best_step()?, tensor)));
        let Some(((_, to), tensor)) = steps.max_by(|((a, _), _), ((b, _), _)| a.total_cmp(b)) else { return raised };
        predicted -= tensor.predicted(tensor.at) - tensor.predicted(to);
        tensor.at = to;
        raised = true;
    }
    true
}

/// The matrices that are quantized and computed with, each in its worst format.
fn ladders<'a>(gguf: &'a Gguf, judge: &Judge, options: &Options) -> Result<Vec<Tensor<'a>>> {
    let used = |info: &&TensorInfo| judge.model.weight(&info.name).is_some();
    let quantized = |info: &&TensorInfo| is_quantized(&Subject { name: &info.name, shape: &info.shape });
    let mut tensors = Vec::new();
    for info in gguf.tensors().iter().filter(quantized).filter(used) {
        let mut steps: Vec<StepUp> = Vec::new();
        for name in std::iter::once(options.mix.format).chain(LADDER.iter().copied()) {
            if quant::by_name(name).is_none() {
                continue;
            }
            let format = quantize::fitting(name, &info.shape)?;
            let n_bytes = format.bytes(info.n_elements());
            // Above the source's own format there is nothing to be won.
            let beyond = info.n_bytes.is_some_and(|own| n_bytes > own);
            if beyond || steps.last().is_some_and(|last| n_bytes <= last.n_bytes) {
                continue;
            }
            let error = sampled_error(gguf, info, format, options)?;
            steps.push(StepUp { format, n_bytes, error });
        }
        if !steps.is_empty() {
            tensors.push(Tensor { info, steps, at: 0, worth: 0.0 });
        }
    }
    Ok(tensors)
}

/// Finds out what each tensor's errors do, by letting it alone have them.
fn measure(
    gguf: &Gguf,
    judge: &Judge,
    options: &Options,
    tensors: &mut [Tensor<'_>],
    progress: Progress<'_>,
) -> Result<()> {
    let n = tensors.len();
    for (i, tensor) in tensors.iter_mut().enumerate() {
        stop(progress("measuring tensors", i, n))?;
        let kld = judge.kld_of(gguf, std::slice::from_ref(tensor), options)?;
        let error = tensor.steps[0].error;
        tensor.worth = if error > 0.0 { kld / error } else { 0.0 };
    }
    Ok(())
}

/// The tensor as it will be.
fn quantized(gguf: &Gguf, info: &TensorInfo, format: &'static Format, options: &Options) -> Result<Planned> {
    quantize::planned(gguf, info, Some(format), options)
}

/// Squared errors of some of a tensor's rows in this format.
fn sampled_error(gguf: &Gguf, info: &TensorInfo, format: &'static Format, options: &Options) -> Result<f64> {
    let planned = quantized(gguf, info, format, options)?;
    planned.sampled_error(SAMPLED_ROWS)
}

/// A model that runs with other weights, and its own opinion of a text.
struct Judge {
    model: Model,
    tokens: Vec<u32>,
    /// For each position the logarithms of the probabilities of all tokens.
    reference: Vec<Vec<f32>>,
    threads: usize,
}

impl Judge {
    fn new(gguf: &Gguf, budget: &Budget<'_>) -> Result<Self> {
        let model = Model::from_gguf(gguf)?;
        let mut tokens = tokenizer::from_gguf(gguf)?.encode_prompt(budget.text)?;
        if tokens.len() < 2 {
            return Err(Error::Usage {
                what: "the text to measure with has no two tokens".into(),
                hint: "give a text of the kind that the model is to read (`--kld-text`)".into(),
            });
        }
        tokens.truncate(budget.n_tokens.max(2));
        let mut judge = Self { model, tokens, reference: Vec::new(), threads: budget.threads };
        for logits in judge.logits(&HashMap::new())?.chunks_exact(judge.model.graph.n_vocab) {
            let mut log_p = Vec::new();
            Distribution::new(logits)?.log_probabilities(&mut log_p);
            judge.reference.push(log_p);
        }
        Ok(judge)
    }

    /// The divergence of the model with these tensors in their formats, and all others as they are.
    fn kld_of(&self, gguf: &Gguf, tensors: &[Tensor<'_>], options: &Options) -> Result<f64> {
        let mut changed = HashMap::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = quantized(gguf, tensor.info, tensor.format(), options)?.to_bytes()?;
            let weight = Weight { shape: tensor.info.shape.clone(), format: tensor.format(), bytes };
            changed.insert(tensor.info.name.clone(), weight);
        }
        let found = self.logits(&changed)?;
        let mut sum = 0.0;
        for (log_p, logits) in self.reference.iter().zip(found.chunks_exact(self.model.graph.n_vocab)) {
            sum += Distribution::new(logits)?.divergence(log_p, f32::NEG_INFINITY);
        }
        Ok(sum / self.tokens.len() as f64)
    }

    /// Those of all positions, `[T, V]`.
    fn logits(&self, changed: &HashMap<String, Weight>) -> Result<Vec<f32>> {
        let graph: &Graph = &self.model.graph;
        let n = self.tokens.len();
        let limits = Limits { max_rows: n, max_outputs: n, max_seqs: 1, n_ctx: n, n_pages: n.div_ceil(PAGE_LEN) };
        let options = cpu::Options { threads: self.threads, ..cpu::Options::default() };
        let mut program = cpu::compile(graph, &Mixed { model: &self.model, changed }, limits, options)?;
        let rows: Vec<Row> = (0..).zip(&self.tokens).map(|(pos, &token)| Row { token, pos, seq: 0 }).collect();
        let (pages, outputs): (Vec<u32>, Vec<u32>) = ((0..limits.n_pages as u32).collect(), (0..n as u32).collect());
        let step = Step { rows: &rows, pages: &[&pages], outputs: &outputs, want: Want::Logits };
        let Output::Logits(logits) = program.run(&step)? else { unreachable!("logits were wanted") };
        Ok(logits)
    }
}

/// A model's weights, some of which are others.
struct Mixed<'a> {
    model: &'a Model,
    changed: &'a HashMap<String, Weight>,
}

impl Weights for Mixed<'_> {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.changed.get(name).cloned().or_else(|| self.model.weight(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_larger_and_worse_are_passed_over() {
        let info =
            TensorInfo { name: "w".into(), shape: vec![4, 256], format_id: 1, offset: 0, n_bytes: None, part: 0 };
        // Of one tensor Q6_K is worse than Q4_K; of the other all is well from the second step on.
        let of = |errors: &[f64]| {
            let steps = errors.iter().zip(1..);
            let steps = steps.map(|(&error, i)| StepUp { format: quant::ALL[0], n_bytes: 100 * i, error }).collect();
            Tensor { info: &info, steps, at: 0, worth: 1.0 }
        };
        let mut tensors = [of(&[0.62, 0.61, 1.07, 0.12, 0.0]), of(&[1.7, 1e-5, 0.04, 0.0])];
        assert!(raise(&mut tensors, 0.2));
        assert_eq!([tensors[0].at, tensors[1].at], [3, 1]);
        assert!(raise(&mut tensors, 1e-4));
        assert_eq!([tensors[0].at, tensors[1].at], [4, 1]);
        while raise(&mut tensors, 0.0) {}
        assert!(tensors.iter().all(|tensor| tensor.at + 1 == tensor.steps.len()));
    }
}
