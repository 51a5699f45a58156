//! `halfbyte imatrix`: which columns of a model's matrices matter most.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use halfbyte::convert::imatrix::{Collect, collect};
use halfbyte::engine::default_threads;
use halfbyte::gguf::Gguf;
use halfbyte::{Result, check_output, hub};

use super::interrupt::Interrupt;
use super::making;
use super::{fetch, out, read_text};

/// Find out which columns of a model's matrices matter most, by reading a text with it
///
/// The file is llama.cpp's; `halfbyte quantize --imatrix` takes it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte imatrix -m model-F16.gguf -f text.txt -o imatrix.gguf
  halfbyte quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M --imatrix imatrix.gguf")]
pub(super) struct Args {
    /// A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(short, long, value_name = "MODEL", env = "HALFBYTE_MODEL", hide_env_values = true, default_value = hub::DEFAULT_MODEL)]
    model: String,

    /// The text to read
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,

    /// Tokens in a chunk; each begins anew
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..))]
    ctx_size: u32,

    /// Chunks to read at most
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// Threads [default: one per physical core]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = super::n_threads)]
    threads: Option<usize>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let text = read_text(&args.file)?;
    let gguf = Gguf::open(&fetch::model(&args.model)?)?;
    let mut inputs: Vec<_> = gguf.files().collect();
    inputs.push(&args.file);
    check_output(&args.output, inputs.iter().copied())?;
    let threads = args.threads.filter(|&n| n > 0).unwrap_or_else(default_threads);
    let options = Collect {
        text: &text,
        name: &args.file.display().to_string(),
        chunk_len: args.ctx_size as usize,
        max_chunks: args.chunks,
        threads,
    };
    let bar = making::bar("{wide_bar:.cyan/dim} {pos}/{len} chunks {eta}");
    let imatrix = collect(&gguf, &options, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let imatrix = imatrix?;
    // Up to here there is nothing to be cleared away, and Ctrl-C ends the process in the middle of a chunk.
    let ctrl_c = Interrupt::install()?;
    making::write(&ctrl_c, &imatrix.plan(), &args.output, &inputs, Some(threads))?;
    let n_tokens = u64::from(imatrix.n_chunks) * u64::from(imatrix.chunk_len);
    out(format_args!("{}: {} matrices, {n_tokens} tokens\n", args.output.display(), imatrix.entries.len()))?;
    Ok(ExitCode::SUCCESS)
}
