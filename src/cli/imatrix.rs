//! `halfbyte imatrix`: which columns of a model's matrices matter most.

use std::path::PathBuf;
use std::process::ExitCode;

use halfbyte::convert::imatrix::{Collect, collect};
use halfbyte::engine::default_threads;
use halfbyte::gguf::Gguf;
use halfbyte::{Result, hub};

use super::interrupt::{self, Interrupt};
use super::making::{self, Threads};
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

    #[command(flatten)]
    threads: Threads,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let text = read_text(&args.file)?;
    let gguf = Gguf::open(&fetch::model(&args.model)?)?;
    let options = Collect {
        text: &text,
        name: &args.file.display().to_string(),
        chunk_len: args.ctx_size as usize,
        max_chunks: args.chunks,
        threads: args.threads.threads.map_or_else(default_threads, usize::from),
    };
    let ctrl_c = Interrupt::install()?;
    let mut interrupted = ctrl_c.listen();
    let bar = making::bar("{wide_bar:.cyan/dim} {pos}/{len} chunks {eta}");
    let imatrix = collect(&gguf, &options, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        interrupt::flow(&mut interrupted)
    });
    bar.finish_and_clear();
    let imatrix = imatrix?;
    let mut inputs: Vec<_> = gguf.files().collect();
    inputs.push(&args.file);
    making::write(&ctrl_c, &imatrix.plan(), &args.output, &inputs, &args.threads)?;
    let n_tokens = u64::from(imatrix.n_chunks) * u64::from(imatrix.chunk_len);
    out(format_args!("{}: {} matrices, {n_tokens} tokens\n", args.output.display(), imatrix.entries.len()))?;
    Ok(ExitCode::SUCCESS)
}
