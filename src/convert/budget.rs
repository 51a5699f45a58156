//! Formats for a limit on quality: as few bytes as a search finds, at a measured distance to the model itself.
//!
//! The distance is the mean Kullback-Leibler divergence of the next token's probabilities, over the positions of a text. To
//! find out what a matrix is worth, it alone is stored in the worst format: the divergence that this causes, and how errors of
//! weights shrink from format to format, predict all others, since small divergences add up and grow with the square of an
//! error. This puts choices of formats in one order, from the smallest file to the model itself, whatever the limit is. Which
//! of them is within the limit is measured, halving what is left of the order: so a larger limit never gives a larger file, be the
//! predictions right or wrong.

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

/// Chooses a format for each matrix, from that of `options.mix` upwards to the one that it has.
///
/// # Errors
/// If the model cannot be run, or the text is too short.
pub fn search(gguf: &Gguf, options: &Options, budget: &Budget<'_>, progress: Progress<'_>) -> Result<Choice> {
    let judge = Judge::new(gguf, budget)?;
    let mut tensors = ladders(gguf, &judge, options)?;
    let floor_kld = judge.kld_of(gguf, &tensors, options)?;
    let mut kld = floor_kld;
    if floor_kld > budget.max_kld {
        measure(gguf, &judge, options, &mut tensors, progress)?;
        let moves = climb(&mut tensors);
        let choices = choices(&tensors, &moves);
        // Those of the floor, and of the model as it is.
        let (mut beyond, mut within) = (0_usize, choices.len() - 1);
        kld = 0.0;
        let n_rounds = choices.len().ilog2() as usize + 1;
        for round in 0..n_rounds {
            let middle = beyond.midpoint(within);
            if middle == beyond {
                break;
            }
            stop(progress("measuring choices", round, n_rounds))?;
            take(&mut tensors, &moves, choices[middle]);
            let found = judge.kld_of(gguf, &tensors, options)?;
            if found <= budget.max_kld {
                (within, kld) = (middle, found);
            } else {
                beyond = middle;
            }
        }
        take(&mut tensors, &moves, choices[within]);
    }
    let chosen = tensors.iter().map(|tensor| (tensor.info.name.clone(), tensor.format())).collect();
    Ok(Choice { chosen, floor_kld, kld })
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

/// A tensor's way from a step to a higher one.
#[derive(Debug, Clone, Copy)]
struct Move {
    tensor: usize,
    from: usize,
    to: usize,
}

/// All moves to where nothing can be raised any more, those first that are worth most for each byte.
fn climb(tensors: &mut [Tensor<'_>]) -> Vec<Move> {
    let mut moves = Vec::new();
    loop {
        let steps = tensors.iter().enumerate().filter_map(|(i, tensor)| Some((tensor.best_step()?, i)));
        let best = steps.max_by(|((a, _), _), ((b, _), _)| a.total_cmp(b));
        let Some(((_, to), tensor)) = best else { return moves };
        moves.push(Move { tensor, from: tensors[tensor].at, to });
        tensors[tensor].at = to;
    }
}

/// A choice of formats: that many moves, and then the one with this number, if there is one.
type Taken = (usize, usize);

/// Choices from the smallest file to the largest: none of the moves, and for each move those with it that predict less divergence
/// than all moves before it do. Where a large tensor is raised, some of them are not needed.
fn choices(tensors: &[Tensor<'_>], moves: &[Move]) -> Vec<Taken> {
    let (mut choices, mut after) = (vec![(0, moves.len())], vec![(0, 0.0)]);
    for (n, last) in moves.iter().enumerate() {
        let of = |step: usize| {
            let tensor = &tensors[last.tensor];
            (tensor.steps[step].n_bytes, tensor.predicted(step))
        };
        let with = |k: usize, at: usize| {
            let (bytes, kld): (usize, f64) = after[k];
            (bytes + of(last.to).0 - of(at).0, kld + of(last.to).1 - of(at).1)
        };
        let (without, next, mut at) = (after[n], with(n, last.from), last.from);
        let mut fewer = vec![(n, n)];
        for k in (0..n).rev() {
            if moves[k].tensor == last.tensor {
                // The last move does what this one does, and more.
                at = moves[k].from;
                continue;
            }
            let (bytes, kld) = with(k, at);
            if bytes <= without.0 || kld >= without.1 {
                break;
            }
            fewer.push((k, n));
        }
        choices.extend(fewer.into_iter().rev());
        after.push(next);
    }
    choices
}

/// Puts the tensors to where a choice has them.
fn take(tensors: &mut [Tensor<'_>], moves: &[Move], (k, n): Taken) {
    tensors.iter_mut().for_each(|tensor| tensor.at = 0);
    for step in moves[..k].iter().chain(moves.get(n)) {
        tensors[step.tensor].at = step.to;
    }
}

/// The matrices that are quantized and computed with, each in its worst format: that of the mix, or the best of as few bits whose blocks
/// fill its rows.
fn ladders<'a>(gguf: &'a Gguf, judge: &Judge, options: &Options) -> Result<Vec<Tensor<'a>>> {
    let least = quantize::format(options.mix.format)?;
    let used = |info: &&TensorInfo| judge.model.weight(&info.name).is_some();
    let quantized = |info: &&TensorInfo| is_quantized(&Subject { name: &info.name, shape: &info.shape });
    let mut tensors = Vec::new();
    for info in gguf.tensors().iter().filter(quantized).filter(used) {
        let mut steps: Vec<StepUp> = Vec::new();
        for &format in quant::ALL {
            if let Some(step) = step(gguf, info, format, least, options)? {
                steps.push(step);
            }
        }
        // Of equally large ones the best; at the bottom the one that was asked for.
        let rank = |step: &StepUp| if step.format == least { -1.0 } else { step.error };
        steps.sort_by(|a, b| a.n_bytes.cmp(&b.n_bytes).then(rank(a).total_cmp(&rank(b))));
        steps.dedup_by_key(|step| step.n_bytes);
        if !steps.is_empty() {
            tensors.push(Tensor { info, steps, at: 0, worth: 0.0 });
        }
    }
    Ok(tensors)
}

/// A format as a step of a tensor's ladder, if its blocks fill rows, and it has no fewer bits than `least` and no more than the
/// tensor has now: above that there is nothing to be won.
fn step(
    gguf: &Gguf,
    info: &TensorInfo,
    format: &'static Format,
    least: &Format,
    options: &Options,
) -> Result<Option<StepUp>> {
    let is_own = format.id == info.format_id;
    let n_bits = |format: &Format| format.block_bytes as f64 / format.block_len as f64;
    let fits = info.shape.last().is_some_and(|row_len| row_len.is_multiple_of(format.block_len));
    if !fits || n_bits(format) < n_bits(least) {
        return Ok(None);
    }
    let n_bytes = format.bytes(info.n_elements());
    if !is_own && info.n_bytes.is_none_or(|own| n_bytes >= own) {
        return Ok(None);
    }
    Ok(Some(StepUp { format, n_bytes, error: sampled_error(gguf, info, format, options)? }))
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

    fn info() -> TensorInfo {
        TensorInfo { name: "w".into(), shape: vec![4, 256], format_id: 1, offset: 0, n_bytes: None, part: 0 }
    }

    /// One whose steps have these errors, and take `size` bytes each.
    fn tensor<'a>(info: &'a TensorInfo, size: usize, errors: &[f64]) -> Tensor<'a> {
        let steps = errors.iter().zip(1..);
        let steps = steps.map(|(&error, i)| StepUp { format: quant::ALL[0], n_bytes: size * i, error }).collect();
        Tensor { info, steps, at: 0, worth: 1.0 }
    }

    fn state(tensors: &[Tensor<'_>]) -> (usize, f64) {
        let n_bytes = tensors.iter().map(|tensor| tensor.steps[tensor.at].n_bytes).sum();
        (n_bytes, tensors.iter().map(|tensor| tensor.predicted(tensor.at)).sum())
    }

    #[test]
    fn formats_that_are_larger_and_worse_are_passed_over() {
        let info = info();
        // Of one tensor Q6_K is worse than Q4_K; of the other all is well from the second step on.
        let mut tensors =
            [tensor(&info, 100, &[0.62, 0.61, 1.07, 0.12, 0.0]), tensor(&info, 100, &[1.7, 1e-5, 0.04, 0.0])];
        let moves: Vec<_> = climb(&mut tensors).iter().map(|step| (step.tensor, step.from, step.to)).collect();
        assert_eq!(moves, [(1, 0, 1), (0, 0, 3), (0, 3, 4), (1, 1, 3)]);
    }

    #[test]
    fn a_large_step_stands_in_for_small_ones() {
        let info = info();
        let mut tensors = vec![tensor(&info, 1000, &[1.0, 0.1, 0.0])];
        tensors.extend((0..8).map(|i| tensor(&info, 10, &[0.02 + 0.001 * f64::from(i), 0.005, 0.0])));
        let moves = climb(&mut tensors);
        let choices = choices(&tensors, &moves);
        take(&mut tensors, &moves, choices[0]);
        let mut last = state(&tensors);
        for &choice in &choices[1..] {
            take(&mut tensors, &moves, choice);
            let next = state(&tensors);
            assert!(next.0 > last.0, "{} bytes after {}", next.0, last.0);
            last = next;
        }
        assert!(tensors.iter().all(|tensor| tensor.at + 1 == tensor.steps.len()), "the last is the best of all");
        // All small tensors are raised once before the large one is; with it, none of them has to be.
        assert!(choices.contains(&(0, 8)) && choices.len() > moves.len(), "{choices:?}");
    }
}
