//! Two runs of one graph, tensor by tensor: two back ends, two sets of kernels, or two files.
//!
//! A text is run twice, in two steps each: all tokens but the last at once, as a prompt is run, then the last one by itself, as text is
//! generated. Kernels differ between the two.

use std::path::PathBuf;

use crate::backend::compare::{Difference, differences};
use crate::backend::{PAGE_LEN, Progress, Row, Step, Want};
use crate::engine::{EngineOptions, Facts, Loaded};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::graph::{Graph, Rows};
use crate::tokenizer;

/// What is run, and how.
#[derive(Debug, Clone)]
pub struct Subject {
    /// A GGUF file.
    pub path: PathBuf,
    /// Device, kernels, threads, format of keys and values. Sizes are set to what the text needs.
    pub options: EngineOptions,
}

/// A step of both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Rows of the step, T.
    pub n_rows: usize,
    /// Tensors that both runs kept, in the order in which they were made.
    pub tensors: Vec<Difference>,
}

/// What came of two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Of both.
    pub facts: [Facts; 2],
    /// The prompt, if the text has more than one token, and the last token.
    pub phases: Vec<Phase>,
}

impl Comparison {
    /// The first tensor that is beyond its limit, with the rows of its step.
    pub fn first_beyond(&self) -> Option<(usize, &Difference)> {
        let all = self.phases.iter().flat_map(|phase| phase.tensors.iter().map(|tensor| (phase.n_rows, tensor)));
        all.into_iter().find(|(_, tensor)| tensor.is_beyond())
    }
}

/// Runs `text` on both subjects, the second of which is the reference, and compares their tensors. A difference is beyond its limit if
/// its nmse is more than `limit`. `progress` is told how both are loaded.
///
/// # Errors
/// If one can't be loaded or run, they have different graphs or tokens, or the text has no tokens.
pub fn compare(subjects: [&Subject; 2], text: &str, limit: f64, progress: Progress<'_>) -> Result<Comparison> {
    let tokens = tokens(subjects[0], text)?;
    if tokens.is_empty() {
        return Err(Error::Usage { what: "the prompt has no tokens".into(), hint: String::new() });
    }
    if subjects[1].path != subjects[0].path && self::tokens(subjects[1], text)? != tokens {
        return Err(Error::Usage {
            what: "the two files have different tokens for the prompt".into(),
            hint: "compare files of one model".into(),
        });
    }
    let mut open = |subject: &Subject| {
        let options = EngineOptions {
            n_ctx: Some(tokens.len().max(2)),
            max_rows: tokens.len(),
            max_sessions: 1,
            keep_tensors: true,
            ..subject.options.clone()
        };
        Loaded::open(&subject.path, &options, progress)
    };
    let (mut a, mut b) = (open(subjects[0])?, open(subjects[1])?);
    check_graphs(a.program.graph(), b.program.graph())?;
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_LEN) as u32).collect();
    let rows: Vec<Row> = tokens.iter().zip(0..).map(|(&token, pos)| Row { token, pos, seq: 0 }).collect();
    let (prompt, last) = rows.split_at(rows.len() - 1);
    let mut phases = Vec::new();
    for rows in [prompt, last].into_iter().filter(|rows| !rows.is_empty()) {
        let step = Step { rows, pages: &[&pages], outputs: &[rows.len() as u32 - 1], want: Want::Logits };
        let tensors = differences(&mut *a.program, &mut *b.program, &step, limit)?;
        phases.push(Phase { n_rows: rows.len(), tensors });
    }
    Ok(Comparison { facts: [a.facts, b.facts], phases })
}

/// The tokens that the file has for `text`.
fn tokens(subject: &Subject, text: &str) -> Result<Vec<u32>> {
    tokenizer::from_gguf(&Gguf::open(&subject.path)?)?.encode_prompt(text)
}

/// That both graphs make the same tensors.
fn check_graphs(a: &Graph, b: &Graph) -> Result<()> {
    let what = if a.name != b.name {
        format!("one file is a {}, the other one a {}", a.name, b.name)
    } else if let Some((a, b)) = a.values.iter().zip(&b.values).find(|(a, b)| a != b) {
        let shape = |rows, width| format!("[{}, {width}]", if rows == Rows::Step { "T" } else { "N" });
        let [of_a, of_b] = [a, b].map(|value| format!("{} {}", value.name, shape(value.rows, value.width)));
        format!("one graph has {of_a} where the other one has {of_b}")
    } else if a.values.len() != b.values.len() {
        format!("one graph has {} tensors, the other one {}", a.values.len(), b.values.len())
    } else {
        return Ok(());
    };
    Err(Error::Usage { what, hint: "compare files of one model: `halfbyte inspect FILE` shows its graph".into() })
}
