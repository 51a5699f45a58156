//! Speed as llama-bench defines it: `pp`, tokens of a prompt per second, and `tg`, tokens generated one by one per second,
//! each from an empty context or behind `depth` tokens that are there already.
//!
//! Steps are run on the program itself. What an engine adds to them (a channel and the text of a token) is not
//! part of what is compared between back ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backend::{CHOSEN, Output, PAGE_LEN, Profile, Program, Row, Step, Ticket, Want, rng};
use crate::error::{Error, Result};

/// What to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, in steps of as many rows as the program takes; the last row's token is wanted.
    Prompt(usize),
    /// So many tokens of each sequence that the program is compiled for, in steps that have one row of each and start from
    /// the tokens before.
    Generate(usize),
}

impl Test {
    /// Tokens that are run, of one sequence.
    pub fn n_tokens(self) -> usize {
        match self {
            Test::Prompt(n) | Test::Generate(n) => n,
        }
    }
}

/// Tokens per second of several runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Speed {
    /// One number per run.
    pub samples: Vec<f64>,
    /// What a step takes of the host's time before it waits for the device: the median, where there is another device.
    pub host: Option<Duration>,
    /// Where the time went, if the program was compiled to find out.
    pub profile: Option<Profile>,
}

impl Speed {
    /// Mean of the samples.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }

    /// Standard deviation of the samples (n - 1); 0 for a single one.
    pub fn stddev(&self) -> f64 {
        let (n, mean) = (self.samples.len() as f64, self.mean());
        let squares: f64 = self.samples.iter().map(|x| (x - mean).powi(2)).sum();
        if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 }
    }
}

/// Runs `test` once to warm up and then `repetitions` times. The context before it is made once, untimed.
///
/// # Errors
/// If the device fails, or the context is too small.
pub fn measure(program: &mut dyn Program, test: Test, depth: usize, repetitions: usize) -> Result<Speed> {
    let mut run = Run::new(program, depth, test.n_tokens())?;
    run.once(match test {
        Test::Prompt(_) => test,
        Test::Generate(_) => Test::Generate(1),
    })?;
    run.host_ns.clear();
    // Of the warm-up.
    let _ = run.program.profile();
    let n_tokens = match test {
        Test::Prompt(n) => n,
        Test::Generate(n) => n * run.n_seqs(),
    };
    let mut samples = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let start = Instant::now();
        run.once(test)?;
        samples.push(n_tokens as f64 / start.elapsed().as_secs_f64());
    }
    run.host_ns.sort_unstable();
    let host = run.host_ns.get(run.host_ns.len() / 2).map(|&ns| Duration::from_nanos(ns));
    Ok(Speed { samples, host, profile: run.program.profile() })
}

/// Sequences that share all pages among them, with `depth` tokens in each, behind which a test can be run again and again.
pub struct Run<'a> {
    program: &'a mut dyn Program,
    /// Of each sequence.
    pages: Vec<Vec<u32>>,
    n_vocab: usize,
    depth: usize,
    /// The host's part of each step.
    host_ns: Vec<u64>,
}

impl<'a> Run<'a> {
    /// Makes the context of `depth` tokens, behind which there is room for tests of `n_tokens`.
    ///
    /// # Errors
    /// If the device fails, or the context is too small.
    pub fn new(program: &'a mut dyn Program, depth: usize, n_tokens: usize) -> Result<Self> {
        let (needed, n_ctx) = (depth + n_tokens, program.limits().n_ctx);
        if needed > n_ctx {
            return Err(Error::ContextFull { needed, n_ctx });
        }
        let n_pages = n_ctx.div_ceil(PAGE_LEN) as u32;
        let pages = (0..program.limits().max_seqs as u32).map(|seq| (seq * n_pages..(seq + 1) * n_pages).collect());
        let pages: Vec<Vec<u32>> = pages.collect();
        let n_vocab = program.graph().n_vocab;
        let mut run = Self { program, pages, n_vocab, depth, host_ns: Vec::new() };
        for seq in 0..run.n_seqs() {
            run.prompt(seq, 0, depth, Want::Nothing)?;
        }
        Ok(run)
    }

    /// Sequences that generate at once.
    pub fn n_seqs(&self) -> usize {
        self.pages.len()
    }

    /// Runs `test`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn once(&mut self, test: Test) -> Result<()> {
        match test {
            Test::Prompt(n) => self.prompt(0, self.depth, n, Want::Argmax),
            Test::Generate(n) => self.generate(self.depth, n),
        }
    }

    /// Runs `n` arbitrary tokens of a sequence from position `first` on, the last one with `want`.
    fn prompt(&mut self, seq: usize, first: usize, n: usize, want: Want) -> Result<()> {
        let rows = (first..first + n).map(|pos| Row { token: self.arbitrary_token(pos), pos: pos as u32, seq: 0 });
        let rows: Vec<Row> = rows.collect();
        let chunk_len = self.program.limits().max_rows;
        let n_chunks = rows.len().div_ceil(chunk_len);
        for (i, rows) in rows.chunks(chunk_len).enumerate() {
            let last = [rows.len() as u32 - 1];
            let wanted = i + 1 == n_chunks && want != Want::Nothing;
            let (outputs, want) = if wanted { (&last[..], want) } else { (&[][..], Want::Nothing) };
            self.program.run(&Step { rows, pages: &[&self.pages[seq]], outputs, want })?;
            self.note_host();
        }
        Ok(())
    }

    /// Generates `n` tokens greedily from position `first` on, as an engine does: the next step is submitted before the token that it
    /// starts from is known, where the program can do that.
    fn generate(&mut self, first: usize, n: usize) -> Result<()> {
        let n_seqs = self.n_seqs();
        let outputs: Vec<u32> = (0..n_seqs as u32).collect();
        let chosen: Vec<u32> = outputs.iter().map(|seq| CHOSEN + seq).collect();
        let mut tokens = vec![self.arbitrary_token(first); n_seqs];
        let mut under_way = VecDeque::new();
        for pos in first..first + n {
            let row = |(seq, &token)| Row { token, pos: pos as u32, seq };
            let rows: Vec<Row> = (0..).zip(&tokens).map(row).collect();
            let pages: Vec<&[u32]> = self.pages.iter().map(Vec::as_slice).collect();
            let step = Step { rows: &rows, pages: &pages, outputs: &outputs, want: Want::Argmax };
            under_way.push_back(self.program.submit(&step)?);
            self.note_host();
            tokens.clone_from(&chosen);
            if under_way.len() == self.program.max_in_flight()
                && let Some(ticket) = under_way.pop_front()
            {
                let ids = self.finish(ticket)?;
                if under_way.is_empty() {
                    tokens = ids;
                }
            }
        }
        under_way.into_iter().try_for_each(|ticket| self.finish(ticket).map(|_| ()))
    }

    /// The tokens of a step.
    fn finish(&mut self, ticket: Ticket) -> Result<Vec<u32>> {
        match self.program.finish(ticket)? {
            Output::Tokens(ids) => ids.into_iter().map(|id| id.ok_or(Error::BadLogits)).collect(),
            output => unreachable!("tokens were wanted, not {output:?}"),
        }
    }

    fn note_host(&mut self) {
        let counters = self.program.info().counters;
        self.host_ns.extend(counters.iter().find(|(name, _)| *name == "host_ns").map(|(_, ns)| ns));
    }

    /// The same at each run, and any in the vocabulary: what is computed does not depend on which token it is.
    fn arbitrary_token(&self, pos: usize) -> u32 {
        (f64::from(rng::uniform(0, pos as u64)) * self.n_vocab as f64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        let speed = Speed { samples: vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], ..Speed::default() };
        assert_eq!(speed.mean(), 5.0);
        assert!((speed.stddev() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Speed { samples: vec![3.0], ..Speed::default() }.stddev(), 0.0);
    }
}
