//! Reads a text with a model, and sums up what goes into its matrices.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use super::{Entry, Imatrix};
use crate::backend::cpu::{self, CpuProgram};
use crate::backend::{Limits, PAGE_LEN, Program, Row, Step, Want};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::graph::{Op, Rows, ValueId};
use crate::model::Model;
use crate::tokenizer;

/// Rows in a step. Every value of a step is kept, so this decides how much memory is needed.
const STEP_LEN: usize = 64;

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct Collect<'a> {
    /// The text.
    pub text: &'a str,
    /// What it is called.
    pub name: &'a str,
    /// Tokens in a chunk; each chunk begins anew.
    pub chunk_len: usize,
    /// Chunks to read at most.
    pub max_chunks: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
}

/// Reads the text with the model of `gguf`; `progress` is told how many chunks are done, and of how many.
///
/// # Errors
/// If the model cannot be run, the text is shorter than a chunk, or `progress` wants it to end.
pub fn collect(
    gguf: &Gguf,
    options: &Collect<'_>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Imatrix> {
    let model = Model::from_gguf(gguf)?;
    let tokenizer = tokenizer::from_gguf(gguf)?;
    let tokens = tokenizer.encode_prompt(options.text)?;
    let n_chunks = (tokens.len() / options.chunk_len).min(options.max_chunks.unwrap_or(usize::MAX));
    if n_chunks == 0 {
        return Err(Error::Usage {
            what: format!("the text has {} tokens, fewer than one chunk of {}", tokens.len(), options.chunk_len),
            hint: "read a longer text, or shorter chunks (`-c`)".into(),
        });
    }
    // Each chunk begins as a text does.
    let first = tokenizer.special().bos.filter(|&bos| tokens.first() == Some(&bos));
    let limits = Limits {
        max_rows: STEP_LEN.min(options.chunk_len),
        max_outputs: 1,
        max_seqs: 1,
        n_ctx: options.chunk_len,
        n_pages: options.chunk_len.div_ceil(PAGE_LEN),
    };
    let cpu_options = cpu::Options { threads: options.threads, keep_tensors: true, ..cpu::Options::default() };
    let mut sums = Sums::new(cpu::compile(&model.graph, &model, limits, cpu_options)?);
    for (i, chunk) in tokens.chunks_exact(options.chunk_len).take(n_chunks).enumerate() {
        let mut chunk = chunk.to_vec();
        chunk[0] = first.unwrap_or(chunk[0]);
        sums.read(&chunk)?;
        if progress(i + 1, n_chunks).is_break() {
            return Err(Error::Interrupted);
        }
    }
    Ok(Imatrix {
        entries: sums.entries(),
        datasets: vec![options.name.into()],
        n_chunks: n_chunks as u32,
        chunk_len: options.chunk_len as u32,
    })
}

/// A program, and what went into its matrices so far.
struct Sums {
    program: CpuProgram,
    /// Matrices, what goes into them, and which of the sums of that are theirs.
    matrices: BTreeMap<String, (Input, Range<usize>)>,
    sums: BTreeMap<Input, Sum>,
}

/// What goes into a matrix, or into those of experts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Input {
    x: ValueId,
    /// The value that says which experts a row uses, and how many these are.
    route: Option<(ValueId, usize)>,
}

/// Of one matrix, or of each expert's.
struct Sum {
    /// `[n, K]`, in f64: rows are many.
    squares: Vec<f64>,
    /// Rows, `[n]`.
    counts: Vec<f64>,
}

impl Sum {
    fn new(n: usize, k: usize) -> Self {
        Self { squares: vec![0.0; n * k], counts: vec![0.0; n] }
    }

    /// K
    fn row_len(&self) -> usize {
        self.squares.len() / self.counts.len()
    }

    /// Adds a row that goes into matrix i.
    fn add(&mut self, i: usize, row: &[f32]) {
        let squares = &mut self.squares[i * row.len()..][..row.len()];
        squares.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        self.counts[i] += 1.0;
    }

    /// Adds rows x `[T, K]` or `[T, U, K]` by the experts that `route` `[T, 2·U]` says.
    fn add_by_route(&mut self, x: &[f32], route: &[f32], n_used: usize) {
        let k = self.row_len();
        let rows = route.chunks_exact(2 * n_used);
        // Of each row of the step: one for each use, or one for all.
        let each = x.len() / k / rows.len();
        for (x, chosen) in x.chunks_exact(each * k).zip(rows) {
            for (x, &expert) in x.chunks_exact(k).cycle().zip(&chosen[..n_used]) {
                self.add(expert as usize, x);
            }
        }
    }
}

impl Sums {
    fn new(program: CpuProgram) -> Self {
        let (mut matrices, mut sums) = (BTreeMap::new(), BTreeMap::new());
        for op in &program.graph().ops {
            let (input, weights, n) = match op {
                Op::MatMul { x, weight, .. } => (Input { x: *x, route: None }, std::slice::from_ref(weight), 1),
                Op::ExpertMatMul { x, route, weights, n_expert, n_used, .. } => {
                    (Input { x: *x, route: Some((*route, *n_used)) }, &weights[..], *n_expert)
                }
                _ => continue,
            };
            // Only rows that are wanted go into the output matrix, and none is.
            if program.graph().value(input.x).rows != Rows::Step {
                continue;
            }
            sums.entry(input).or_insert_with(|| Sum::new(n, weights[0].shape[1]));
            let each = n / weights.len();
            for (i, weight) in weights.iter().enumerate() {
                matrices.entry(weight.name.clone()).or_insert((input, i * each..(i + 1) * each));
            }
        }
        Self { program, matrices, sums }
    }

    /// Reads one chunk from its beginning.
    fn read(&mut self, tokens: &[u32]) -> Result<()> {
        let Self { program, sums, .. } = self;
        let limits = program.limits();
        let pages: Vec<u32> = (0..limits.n_pages as u32).collect();
        let rows: Vec<Row> = (0..).zip(tokens).map(|(pos, &token)| Row { token, pos, seq: 0 }).collect();
        for rows in rows.chunks(limits.max_rows) {
            program.run(&Step { rows, pages: &[&pages], outputs: &[], want: Want::Nothing })?;
            let mut numbers = |value: ValueId| {
                let name = program.graph().value(value).name.clone();
                program.tensor(&name).map(Option::unwrap_or_default)
            };
            for (input, sum) in sums.iter_mut() {
                let x = numbers(input.x)?;
                match input.route {
                    None => x.chunks_exact(sum.row_len()).for_each(|row| sum.add(0, row)),
                    Some((route, n_used)) => sum.add_by_route(&x, &numbers(route)?, n_used),
                }
            }
        }
        Ok(())
    }

    fn entries(&self) -> BTreeMap<String, Entry> {
        let entry = |(input, range): &(Input, Range<usize>)| {
            let sum = &self.sums[input];
            let f32s = |numbers: &[f64]| numbers.iter().map(|&x| x as f32).collect();
            let squares = &sum.squares[range.start * sum.row_len()..range.end * sum.row_len()];
            Entry { sums: f32s(squares), counts: f32s(&sum.counts[range.clone()]) }
        };
        self.matrices.iter().map(|(name, place)| (name.clone(), entry(place))).collect()
    }
}
