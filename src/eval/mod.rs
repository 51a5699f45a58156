//! How well a model predicts a text, and how near one run of it is to another.
//!
//! [`perplexity`] and [`divergence`] follow the rules of llama.cpp's `llama-perplexity`, so that their numbers and the
//! files of logits ([`LogitsFile`]) can be exchanged: which tokens are scored behind which context is in [`Windows`].
//! Windows are run on a [`Program`](crate::backend::Program) by as many rows a step as it takes, several windows in a
//! step if they fit; [`engine_options`] asks for what that needs. [`compare`] looks inside: it finds the first tensor in which two
//! runs differ.
//!
//! ```
//! use halfbyte::engine::{Device, EngineOptions, Loaded};
//! use halfbyte::eval::{self, Perplexity, Windows};
//!
//! # fn main() -> halfbyte::Result<()> {
//! # let (path, text) = ("tests/golden/tiny/llama-q4_0.gguf", "You can judge a model by its words. ".repeat(8));
//! let options = eval::engine_options(64, EngineOptions { device: Device::Cpu, ..EngineOptions::default() })?;
//! let Loaded { mut program, tokenizer, .. } = Loaded::open(path.as_ref(), &options, &mut |_, _| {})?;
//! let windows = Windows::of_text(&*tokenizer, &text, 64, None)?;
//! let scores = eval::perplexity(&mut *program, &windows, 2, None, &mut |_| ())?;
//! println!("{}", Perplexity::of(&scores));
//! # Ok(())
//! # }
//! ```

mod compare;
mod divergence;
mod logits_file;
mod perplexity;
mod statistics;
mod steps;
mod windows;

pub use compare::{Comparison, Phase, Subject, compare};
pub use divergence::{Base, Divergence, Summary, divergence};
pub use logits_file::{LogitsFile, LogitsWriter};
pub use perplexity::{Perplexity, perplexity};
pub use statistics::{Estimate, percentile};
pub use steps::engine_options;
pub use windows::Windows;
