//! Reads a text with a model, and sums up what goes into its matrices.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

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
    /// Value and matrix, of which it is what goes in.
    inputs: Vec<(ValueId, String)>,
    /// By value, sums by column in f64: rows are many.
    sums: BTreeMap<ValueId, Vec<f64>>,
    n_rows: usize,
}

impl Sums {
    fn new(program: CpuProgram) -> Self {
        let mut seen = BTreeSet::new();
        let mut inputs = Vec::new();
        let mut sums = BTreeMap::new();
        for op in &program.graph().ops {
            // Only rows that are wanted go into the output matrix, and none is.
            if let Op::MatMul { x, weight, .. } = op
                && program.graph().value(*x).rows == Rows::Step
                && seen.insert(weight.name.clone())
            {
                inputs.push((*x, weight.name.clone()));
                sums.insert(*x, vec![0.0; weight.shape[1]]);
            }
        }
        Self { program, inputs, sums, n_rows: 0 }
    }

    /// Reads one chunk from its beginning.
    fn read(&mut self, tokens: &[u32]) -> Result<()> {
        let limits = self.program.limits();
        let pages: Vec<u32> = (0..limits.n_pages as u32).collect();
        let rows: Vec<Row> = (0..).zip(tokens).map(|(pos, &token)| Row { token, pos, seq: 0 }).collect();
        for rows in rows.chunks(limits.max_rows) {
            self.program.run(&Step { rows, pages: &[&pages], outputs: &[], want: Want::Nothing })?;
            for (&value, sums) in &mut self.sums {
                let name = self.program.graph().value(value).name.clone();
                let numbers = self.program.tensor(&name)?.unwrap_or_default();
                for row in numbers.chunks_exact(sums.len()) {
                    sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
                }
            }
            self.n_rows += rows.len();
        }
        Ok(())
    }

    fn entries(&self) -> BTreeMap<String, Entry> {
        let entry = |value: &ValueId| Entry {
            sums: self.sums[value].iter().map(|&sum| sum as f32).collect(),
            counts: vec![self.n_rows as f32],
        };
        self.inputs.iter().map(|(value, name)| (name.clone(), entry(value))).collect()
    }
}
