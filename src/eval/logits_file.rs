//! Files of log-probabilities, in the format that llama.cpp's `llama-perplexity` writes with `--save-all-logits` and reads with
//! `--kl-divergence`.
//!
//! Numbers are little-endian:
//!
//! ```text
//!  "_logits_"  n_ctx u32  n_vocab i32  n_windows i32  tokens [n_windows · n_ctx] i32
//!  for each scored token of each window a row:
//!      scale f32  min f32  q [n_vocab] u16, and one more if n_vocab is odd
//! ```
//!
//! The token i has the log-probability `scale · q[i] + min`. That reaches down to e⁻¹⁶ of the most likely token; what is less likely
//! has q = 0. Source: <https://github.com/ggml-org/llama.cpp/blob/master/tools/perplexity/perplexity.cpp>.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::windows::{Windows, check_n_ctx, n_scored};
use crate::backend::Distribution;
use crate::error::{Error, Result};
use crate::file::InPieces;
use crate::output::Output;
use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"_logits_";
/// Magic and three numbers.
const HEADER_BYTES: u64 = 20;
/// ln of how much less likely than the most likely token a token can be and still be told apart.
const RANGE: f32 = 16.0;
const LEVELS: f32 = u16::MAX as f32;
/// Scale and min.
const ROW_HEADER_BYTES: usize = 8;
/// What is a probability, but for its rounding.
const MAX_LOG_PROBABILITY: f32 = 0.01;

/// Bytes of a row.
fn row_bytes(n_vocab: usize) -> usize {
    ROW_HEADER_BYTES + 2 * n_vocab.next_multiple_of(2)
}

/// The bytes of a row.
pub(super) fn encode(row: &Distribution<'_>) -> Vec<u8> {
    let logits = row.logits();
    let max = logits[row.top as usize];
    let min = logits.iter().copied().fold(max, f32::min).max(max - RANGE);
    let scale = (max - min) / LEVELS;
    let per_level = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut bytes = Vec::with_capacity(row_bytes(logits.len()));
    bytes.extend(scale.to_le_bytes());
    bytes.extend((min - row.log_sum_exp as f32).to_le_bytes());
    // What is below the range becomes 0, since conversions saturate.
    bytes.extend(logits.iter().flat_map(|logit| (((logit - min) * per_level + 0.5) as u16).to_le_bytes()));
    bytes.resize(row_bytes(logits.len()), 0);
    bytes
}

/// A file that is written, and appears when it is complete.
pub struct LogitsWriter {
    path: PathBuf,
    output: Output,
    file: InPieces,
}

impl LogitsWriter {
    /// Begins the file for all windows of a text. `inputs` are files that are read meanwhile.
    ///
    /// # Errors
    /// If the file is one of the inputs, or can't be written.
    pub fn create<'a>(
        path: &Path,
        inputs: impl IntoIterator<Item = &'a Path>,
        windows: &Windows,
        n_vocab: usize,
    ) -> Result<Self> {
        let output = Output::new(path, inputs)?;
        let file = output.create()?;
        let mut writer = Self { path: path.into(), output, file };
        let numbers = [windows.n_ctx(), n_vocab, windows.len()].map(|n| n as u32);
        let tokens = numbers.iter().chain(windows.tokens()).flat_map(|n| n.to_le_bytes());
        let header: Vec<u8> = MAGIC.iter().copied().chain(tokens).collect();
        writer.write(&header)?;
        Ok(writer)
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io("write", &self.path))
    }

    /// Writes what is still in memory, and puts the file into its place.
    ///
    /// # Errors
    /// If that can't be done.
    pub fn finish(self) -> Result<()> {
        let Self { path, output, mut file } = self;
        file.flush().map_err(io("write", &path))?;
        output.finish()
    }
}

/// A file that is read, row by row.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: BufReader<File>,
    n_ctx: usize,
    n_vocab: usize,
    tokens: Vec<u32>,
}

impl LogitsFile {
    /// Opens a file and reads which windows it is about.
    ///
    /// # Errors
    /// If it can't be read, or is not of this format, or shorter or longer than it says itself.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io("open", path))?;
        let found_bytes = file.metadata().map_err(io("read", path))?.len();
        let bad = |what: String| Error::LogitsFile { path: path.into(), what };
        let mut file = BufReader::new(file);
        let mut header = [0; HEADER_BYTES as usize];
        if found_bytes < HEADER_BYTES {
            return Err(bad(format!("it has {found_bytes} bytes, which are no header")));
        }
        file.read_exact(&mut header).map_err(io("read", path))?;
        if &header[..MAGIC.len()] != MAGIC {
            return Err(bad("it does not begin with `_logits_`".into()));
        }
        let numbers = header[MAGIC.len()..].chunks_exact(4).map(|bytes| u32::from_le_bytes(word(bytes)));
        let numbers: Vec<u64> = numbers.map(u64::from).collect();
        let [n_ctx, n_vocab, n_windows] = [numbers[0], numbers[1], numbers[2]];
        let fits = |n: u64| (1..=i32::MAX as u64).contains(&n);
        if check_n_ctx(n_ctx as usize).is_err() || !fits(n_vocab) || !fits(n_windows) {
            return Err(bad(format!("{n_windows} windows of {n_ctx} tokens, {n_vocab} in the vocabulary")));
        }
        // In 128 bits nothing overflows; then all of these are as small as the file.
        let n_rows = u128::from(n_windows) * n_scored(n_ctx as usize) as u128;
        let tokens_bytes = 4 * u128::from(n_windows * n_ctx);
        let expected_bytes = u128::from(HEADER_BYTES) + tokens_bytes + n_rows * row_bytes(n_vocab as usize) as u128;
        if u128::from(found_bytes) != expected_bytes {
            let what = format!("{found_bytes} bytes in place of the {expected_bytes} of {n_windows} windows");
            return Err(bad(what));
        }
        let mut bytes = vec![0; (4 * n_windows * n_ctx) as usize];
        file.read_exact(&mut bytes).map_err(io("read", path))?;
        let tokens: Vec<u32> = bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(word(bytes))).collect();
        if let Some(token) = tokens.iter().find(|&&token| u64::from(token) >= n_vocab) {
            return Err(bad(format!("token {token} in a vocabulary of {n_vocab}")));
        }
        Ok(Self { path: path.into(), file, n_ctx: n_ctx as usize, n_vocab: n_vocab as usize, tokens })
    }

    /// Tokens in a window.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The windows that the file is about, at most `most` of them, for a model with this vocabulary of `n_vocab` logits.
    ///
    /// # Errors
    /// If the vocabularies have different sizes.
    pub fn windows(&self, tokenizer: &dyn Tokenizer, n_vocab: usize, most: Option<usize>) -> Result<Windows> {
        if n_vocab != self.n_vocab {
            return Err(Error::Usage {
                what: format!("{}: a vocabulary of {}, the model's has {n_vocab}", self.path.display(), self.n_vocab),
                hint: "compare models that have the same tokens".into(),
            });
        }
        let windows = Windows::of_tokens(self.tokens.clone(), self.n_ctx, most, tokenizer);
        if windows.is_empty() {
            return Err(Error::Usage { what: "no window of the file is wanted".into(), hint: String::new() });
        }
        Ok(windows)
    }

    /// That the file is about the windows of a text.
    ///
    /// # Errors
    /// If it is about other tokens.
    pub fn check_text(&self, windows: &Windows) -> Result<()> {
        let both = self.tokens.iter().zip(windows.tokens());
        match both.clone().position(|(a, b)| a != b) {
            None if windows.tokens().len() <= self.tokens.len() => Ok(()),
            at => Err(Error::Usage {
                what: format!(
                    "{}: made from other tokens than the text has, from token {} on",
                    self.path.display(),
                    at.unwrap_or(self.tokens.len())
                ),
                hint: "leave out the text: the file has its tokens; or it was made with another tokenizer".into(),
            }),
        }
    }

    /// The bytes of the next `n` rows.
    pub(super) fn read(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; n * row_bytes(self.n_vocab)];
        self.file.read_exact(&mut bytes).map_err(io("read", &self.path))?;
        Ok(bytes)
    }

    /// The log-probabilities in the `i`-th row of `bytes`, in place of what is in `out`, and the floor: tokens that have it are no
    /// more likely than that.
    pub(super) fn decode(&self, i: usize, bytes: &[u8], out: &mut Vec<f32>) -> Result<f32> {
        let row = &bytes[i * row_bytes(self.n_vocab)..][..row_bytes(self.n_vocab)];
        let (header, quants) = row.split_at(ROW_HEADER_BYTES);
        let [scale, min] = [0, 4].map(|at| f32::from_le_bytes(word(&header[at..at + 4])));
        let max = scale * LEVELS + min;
        // Neither holds for what is not a number.
        if !(scale >= 0.0 && max.is_finite() && max <= MAX_LOG_PROBABILITY) {
            let what = format!("a row from {min} to {max}, which are no log-probabilities");
            return Err(Error::LogitsFile { path: self.path.clone(), what });
        }
        out.clear();
        let quants = quants.chunks_exact(2).take(self.n_vocab);
        out.extend(quants.map(|q| scale * f32::from(u16::from_le_bytes([q[0], q[1]])) + min));
        Ok(min)
    }
}

/// Four bytes, of a slice that has as many.
fn word(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, path: path.into(), source }
}
