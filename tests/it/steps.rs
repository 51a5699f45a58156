//! Runs token sequences on a program, whatever its back end: prompts in chunks, greedy continuations.

use halfbyte::backend::{Output, PAGE_LEN, Program, Row, Step, Want};

/// One sequence on a program: its pages and how far it got.
pub(crate) struct Sequence {
    /// Position p lies in `pages[p / PAGE_LEN]`.
    pub(crate) pages: Vec<u32>,
    /// Positions that are stored.
    pub(crate) len: usize,
}

impl Sequence {
    /// An empty sequence on the first pages of the cache, enough for `n_ctx` positions.
    pub(crate) fn new(n_ctx: usize) -> Self {
        Self::on((0..n_ctx.div_ceil(PAGE_LEN) as u32).collect())
    }

    /// An empty sequence on these pages.
    pub(crate) fn on(pages: Vec<u32>) -> Self {
        Self { pages, len: 0 }
    }

    /// Appends `tokens` in steps of at most `chunk` rows, and gives the logits of those whose index is in `at`
    /// (ascending).
    pub(crate) fn append(
        &mut self,
        program: &mut dyn Program,
        tokens: &[u32],
        chunk: usize,
        at: &[usize],
    ) -> Vec<Vec<f32>> {
        let limits = program.limits();
        let n_vocab = program.graph().n_vocab;
        let mut logits = Vec::new();
        let mut start = 0;
        while start < tokens.len() {
            let mut end = tokens.len().min(start + chunk.min(limits.max_rows));
            // A step ends before the row that would be one output too many.
            let wanted = &at[at.partition_point(|&i| i < start)..];
            if let Some(&beyond) = wanted.get(limits.max_outputs) {
                end = end.min(beyond);
            }
            let outputs: Vec<u32> = wanted.iter().take_while(|&&i| i < end).map(|&i| (i - start) as u32).collect();
            let rows: Vec<Row> =
                (start..end).map(|i| Row { token: tokens[i], pos: (self.len + i - start) as u32, seq: 0 }).collect();
            let want = if outputs.is_empty() { Want::Nothing } else { Want::Logits };
            let step = Step { rows: &rows, pages: &[&self.pages], outputs: &outputs, want };
            match program.run(&step).expect("the step runs") {
                Output::Logits(all) => logits.extend(all.chunks_exact(n_vocab).map(<[f32]>::to_vec)),
                Output::Nothing => assert!(outputs.is_empty()),
                Output::Argmax(_) => panic!("logits were wanted"),
            }
            self.len += end - start;
            start = end;
        }
        logits
    }
}

/// The index of the largest number.
pub(crate) fn top(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary has tokens") as u32
}

/// ln Σ exp(x), in f64.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln()
}
