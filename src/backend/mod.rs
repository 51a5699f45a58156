//! Executors of graphs. A back end compiles a [`Graph`] and its weights once into a [`Program`]; a step then only
//! says which rows to run.
//!
//! Rows, not batches: each row carries its token, position and sequence. A prompt, one decode, eight users decoding
//! at once and a speculative check are the same thing with other rows. The KV cache is an array of pages of
//! [`PAGE_LEN`] positions; which pages a sequence owns is the caller's business and comes with each step.
//!
//! A step can start from a token that the step before chooses and nobody has seen yet ([`CHOSEN`]), so that a device
//! never waits for its host: submit one step, submit the next, and only then ask what the first one gave.

pub mod compare;
pub mod cpu;
mod distribution;
mod draw;
pub mod gpu;
mod kv;
mod profile;
pub(crate) mod rng;

use crate::error::Result;
use crate::graph::Graph;
pub use distribution::Distribution;
pub(crate) use draw::{Candidate, NO_TOKEN, Plan, candidates, choose};
pub use draw::{Draw, MAX_TOP_K};
pub use kv::KvFormat;
pub use profile::{KernelProfile, PhaseProfile, Profile};

pub use crate::quant::Weights;

/// Positions in a page of the KV cache.
pub const PAGE_LEN: usize = 32;

/// [`Row::token`] `CHOSEN + i` is the token of output row i of the last step that chose tokens. Where that row has none,
/// because its logits are no numbers, what such a row computes is not defined.
pub const CHOSEN: u32 = 1 << 31;

/// One token to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id, below the vocabulary's size, or [`CHOSEN`] and more.
    pub token: u32,
    /// Position in its sequence.
    pub pos: u32,
    /// Which of [`Step::pages`] is its sequence.
    pub seq: u32,
}

/// What to bring back from a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Want<'a> {
    /// Nothing: only the KV cache changes. No output row is computed.
    Nothing,
    /// The id of the largest logit of each output row; of equal ones the lowest id.
    Argmax,
    /// A token for each output row, drawn as its [`Draw`] says, which [is bounded](Draw::is_bounded).
    Draw(&'a [Draw]),
    /// All logits of each output row.
    Logits,
}

/// What to run. All keys and values of the rows are stored before any row attends, so that rows of one sequence
/// see one another by position.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// T rows, at least one, at most [`Limits::max_rows`].
    pub rows: &'a [Row],
    /// For each sequence its pages: position p lies in page `pages[seq][p / PAGE_LEN]`.
    pub pages: &'a [&'a [u32]],
    /// Indices into `rows`, ascending, at most [`Limits::max_outputs`].
    pub outputs: &'a [u32],
    /// What to bring back for `outputs`.
    pub want: Want<'a>,
}

/// What a step brought back.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// For [`Want::Nothing`].
    Nothing,
    /// One token id per output row, for [`Want::Argmax`] and [`Want::Draw`]; `None` if one of its logits is not a number, or the
    /// largest is infinite.
    Tokens(Vec<Option<u32>>),
    /// `[N, V]`
    Logits(Vec<f32>),
}

/// A step that was submitted, to be finished.
#[derive(Debug, PartialEq)]
#[must_use = "a step that is never finished holds up those after it"]
pub enum Ticket {
    /// It has run already.
    Done(Output),
    /// It is the device's n-th.
    Number(u64),
}

/// How much of everything a program is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows in a step.
    pub max_rows: usize,
    /// Rows whose logits are wanted, in a step.
    pub max_outputs: usize,
    /// Sequences in a step.
    pub max_seqs: usize,
    /// Positions in a sequence: the context window.
    pub n_ctx: usize,
    /// Pages in the KV cache, for all sequences together.
    pub n_pages: usize,
}

/// Bytes that a program holds, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Weights on the device, or mapped.
    pub weights_bytes: u64,
    /// The KV cache.
    pub kv_bytes: u64,
    /// Intermediates, inputs and outputs.
    pub scratch_bytes: u64,
}

/// What a program says about itself, and counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// Device, for people: `NVIDIA GeForce RTX 4060 (Vulkan)`, `CPU (2 threads)`.
    pub device: String,
    /// Held memory.
    pub memory: Memory,
    /// What the device could do but does not, or does after a test, for people.
    pub notes: Vec<String>,
    /// Named like a counter of the last step, for tests and profiles: `dispatches`, `submits`, `passes`, `writes`, `created`,
    /// and `host_ns`, the host's time to encode and submit it.
    pub counters: Vec<(&'static str, u64)>,
}

/// A compiled graph with its weights and its KV cache.
pub trait Program: Send {
    /// Runs one step.
    ///
    /// # Errors
    /// If the device fails. After an error the content of the KV cache is not defined.
    fn run(&mut self, step: &Step<'_>) -> Result<Output>;

    /// How many steps may be submitted before the first of them is finished. Where that is 1, a step runs while it is
    /// submitted, and nothing is won by submitting it earlier.
    fn max_in_flight(&self) -> usize {
        1
    }

    /// Starts a step. Steps run in the order in which they are submitted, and are finished in that order. One that
    /// wants logits is finished before another one is submitted.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        self.run(step).map(Ticket::Done)
    }

    /// As [`Program::submit`]; but a program that runs a step while it is submitted may give it up as soon as `is_wanted` says no.
    /// Then there is no ticket, and the step was none: at the positions of its rows, the content of the KV cache is not defined.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn submit_while(&mut self, step: &Step<'_>, is_wanted: &dyn Fn() -> bool) -> Result<Option<Ticket>> {
        let _ = is_wanted;
        self.submit(step).map(Some)
    }

    /// Waits for a step.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn finish(&mut self, ticket: Ticket) -> Result<Output> {
        match ticket {
            Ticket::Done(output) => Ok(output),
            Ticket::Number(n) => panic!("step {n} belongs to a program that finishes its own steps"),
        }
    }

    /// A tensor of the last step by its name in the graph, `[T or N, width]`; `None` if the graph has no such value, or
    /// the program did not keep it (see each back end's options).
    ///
    /// # Errors
    /// If the device fails.
    fn tensor(&mut self, name: &str) -> Result<Option<Vec<f32>>>;

    /// Where the time of the steps since the last call went, if the program was compiled to find out.
    fn profile(&mut self) -> Option<Profile> {
        None
    }

    /// The graph that was compiled.
    fn graph(&self) -> &Graph;

    /// What it was compiled for.
    fn limits(&self) -> Limits;

    /// Device, memory and counters.
    fn info(&self) -> Info;
}

/// Called while weights are loaded, with bytes done and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Panics if a step breaks the contract; back ends call it first.
pub(crate) fn check_step(step: &Step<'_>, graph: &Graph, limits: &Limits) {
    assert!(!step.rows.is_empty() && step.rows.len() <= limits.max_rows, "a step of {} rows", step.rows.len());
    assert!(step.outputs.len() <= limits.max_outputs, "a step with {} output rows", step.outputs.len());
    assert!(step.pages.len() <= limits.max_seqs, "a step over {} sequences", step.pages.len());
    assert!(step.outputs.is_sorted_by(|a, b| a < b), "output rows are ascending");
    assert!(step.outputs.iter().all(|&i| (i as usize) < step.rows.len()), "output rows are rows");
    if let Want::Draw(draws) = step.want {
        assert!(draws.len() == step.outputs.len(), "{} draws for {} output rows", draws.len(), step.outputs.len());
        assert!(draws.iter().all(Draw::is_bounded), "a draw of more than {MAX_TOP_K} candidates");
    }
    for row in step.rows {
        let pages = step.pages[row.seq as usize];
        let page = row.pos as usize / PAGE_LEN;
        let chosen = row.token.checked_sub(CHOSEN).is_some_and(|i| (i as usize) < limits.max_outputs);
        assert!(chosen || (row.token as usize) < graph.n_vocab, "token {} of {}", row.token, graph.n_vocab);
        assert!((row.pos as usize) < limits.n_ctx, "position {} of {}", row.pos, limits.n_ctx);
        assert!(page < pages.len(), "position {} has no page", row.pos);
        assert!(pages[..=page].iter().all(|&p| (p as usize) < limits.n_pages), "page numbers are pages");
    }
}
