//! Runs token sequences on a program, whatever its back end: prompts in chunks, greedy continuations.

use halfbyte::backend::compare::nmse;
use halfbyte::backend::{Output, PAGE_LEN, Program, Row, Step, Want};

use crate::shapes::Numbers;

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
                Output::Tokens(_) => panic!("logits were wanted"),
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

/// Fails if two sets of logits are further apart than `limit`; 0 means the same bits.
pub(crate) fn assert_same(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>], limit: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        if limit == 0.0 {
            let different = (0..found.len()).find(|&j| found[j].to_bits() != expected[j].to_bits());
            assert_eq!(different, None, "{what}: row {i} has other bits");
        } else {
            let error = nmse(found, expected);
            assert!(error <= limit, "{what}: row {i}: nmse {error:.1e} (limit {limit:.0e})");
        }
    }
}

/// Tokens of a tiny model, the same ones for a seed.
pub(crate) fn tokens(n: usize, n_vocab: usize, seed: u64) -> Vec<u32> {
    let mut numbers = Numbers(seed);
    (0..n).map(|_| numbers.below(n_vocab) as u32).collect()
}

/// A prompt in one step, in chunks of 7, token by token, and on scattered pages gives the same logits.
pub(crate) fn check_chunks(program: &mut dyn Program, limit: f64) {
    let n = 100;
    let limits = program.limits();
    assert!(limits.max_rows >= n && limits.max_outputs >= n && limits.n_ctx >= n, "one step takes all");
    let prompt = tokens(n, program.graph().n_vocab, 1);
    let all: Vec<usize> = (0..n).collect();
    let at_once = Sequence::new(n).append(program, &prompt, n, &all);
    for chunk in [7, 1] {
        let found = Sequence::new(n).append(program, &prompt, chunk, &all);
        assert_same(&format!("chunks of {chunk}"), &found, &at_once, limit);
    }
    let mut pages = Numbers(2).permutation(limits.n_pages);
    pages.truncate(n.div_ceil(PAGE_LEN));
    let found = Sequence::on(pages.clone()).append(program, &prompt, 33, &all);
    assert_same(&format!("pages {pages:?}"), &found, &at_once, limit);
}

/// Three sequences decoded in one step give what each gives alone; two of them share the pages of a common beginning.
pub(crate) fn check_sequences(program: &mut dyn Program, limit: f64) {
    let n_vocab = program.graph().n_vocab;
    let (n_shared, n_steps) = (PAGE_LEN, 12);
    assert!(program.limits().n_pages >= 6 && program.limits().max_seqs >= 3, "pages for three sequences");
    let shared = tokens(n_shared, n_vocab, 3);
    let own: [Vec<u32>; 3] = [4, 5, 6].map(|seed| tokens(9 + seed as usize + n_steps, n_vocab, seed));
    let n_prompt = |i: usize| own[i].len() - n_steps;
    let starts: [&[u32]; 3] = [&shared, &shared, &[]];

    // 1. Each alone.
    let alone: Vec<Vec<Vec<f32>>> = (0..3)
        .map(|i| {
            let mut sequence = Sequence::new(3 * PAGE_LEN);
            sequence.append(program, starts[i], usize::MAX, &[]);
            sequence.append(program, &own[i][..n_prompt(i)], usize::MAX, &[]);
            own[i][n_prompt(i)..].iter().map(|&t| sequence.append(program, &[t], 1, &[0]).remove(0)).collect()
        })
        .collect();

    // 2. The prompts, then all three at once; page 5 holds the common beginning.
    let mut sequences = [vec![5, 2], vec![5, 0], vec![4, 1]].map(Sequence::on);
    for i in 0..3 {
        if i == 1 {
            sequences[1].len = n_shared;
        } else {
            sequences[i].append(program, starts[i], usize::MAX, &[]);
        }
        sequences[i].append(program, &own[i][..n_prompt(i)], usize::MAX, &[]);
    }
    for s in 0..n_steps {
        let rows: Vec<Row> = (0..3)
            .map(|i| Row { token: own[i][n_prompt(i) + s], pos: (sequences[i].len + s) as u32, seq: i as u32 })
            .collect();
        let pages: Vec<&[u32]> = sequences.iter().map(|s| &s.pages[..]).collect();
        let step = Step { rows: &rows, pages: &pages, outputs: &[0, 1, 2], want: Want::Logits };
        let Output::Logits(logits) = program.run(&step).expect("the step runs") else {
            panic!("logits were wanted");
        };
        let together: Vec<Vec<f32>> = logits.chunks(n_vocab).map(<[f32]>::to_vec).collect();
        let expected: Vec<Vec<f32>> = alone.iter().map(|steps| steps[s].clone()).collect();
        assert_same(&format!("step {s} of three sequences"), &together, &expected, limit);
    }
}
