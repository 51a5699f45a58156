//! `halfbyte quantize`: a GGUF file with its weights in other formats.

use std::path::PathBuf;
use std::process::ExitCode;

use halfbyte::convert::quantize::{self, Mix, Options, mixes};
use halfbyte::gguf::Gguf;
use halfbyte::{Error, Result};

use super::making::{self, Threads};
use super::{fetch, out};

/// Make a smaller model of a GGUF file, by storing its weights in a format of fewer bits
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M
  halfbyte quantize model-F16.gguf model-Q4_0.gguf Q4_0 --tensor-type attn_v=Q6_K
  halfbyte quantize model-F16.gguf model-Q4_0.gguf Q4_0 --dry-run")]
pub(super) struct Args {
    /// A GGUF file in F32, F16, BF16 or Q8_0, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(value_name = "IN")]
    input: String,

    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// What to make of it, by llama.cpp's name; mixes like Q4_K_M have better formats where it matters most
    #[arg(value_name = "TYPE", help = format!("What to make of it, by llama.cpp's name: {}", names()))]
    mix: String,

    /// Store all matrices in the one format that the mix is named after
    #[arg(long)]
    pure: bool,

    /// Format of the output matrix
    #[arg(long, value_name = "FORMAT")]
    output_tensor_type: Option<String>,

    /// Format of the embedding table
    #[arg(long, value_name = "FORMAT")]
    token_embedding_type: Option<String>,

    /// Format of the matrices whose names the regular expression PATTERN matches
    #[arg(long, value_name = "PATTERN=FORMAT")]
    tensor_type: Vec<String>,

    /// Leave the output matrix as it is
    #[arg(long)]
    leave_output_tensor: bool,

    /// Take a file that is quantized already: it adds error to error
    #[arg(long)]
    allow_requantize: bool,

    /// Say what each tensor would become, and write nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    threads: Threads,
}

fn names() -> String {
    mixes().map(|mix| mix.name).collect::<Vec<_>>().join(", ")
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mix = Mix::by_name(&args.mix)?;
    let gguf = Gguf::open(&fetch::model(&args.input)?)?;
    let plan = quantize::plan(&gguf, &options(args, mix, &gguf)?)?;
    if args.dry_run {
        out(making::table(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    let inputs: Vec<_> = gguf.files().collect();
    making::write(&plan, &args.output, &inputs, &args.threads)?;
    out(format_args!("{}: {}\n", args.output.display(), making::summary(&plan)))?;
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args, mix: Mix, gguf: &Gguf) -> Result<Options> {
    let named = |name: &Option<String>| name.as_deref().map(quantize::format).transpose();
    let mut options = Options {
        pure: args.pure,
        output: named(&args.output_tensor_type)?,
        token_embd: named(&args.token_embedding_type)?,
        leave_output: args.leave_output_tensor,
        requantize: args.allow_requantize,
        ..Options::new(mix)
    };
    for choice in &args.tensor_type {
        let Some((pattern, format)) = choice.rsplit_once('=') else {
            return Err(Error::Usage {
                what: format!("`{choice}` does not say which tensors get which format"),
                hint: "write `--tensor-type PATTERN=FORMAT`, like `--tensor-type attn_v=Q6_K`".into(),
            });
        };
        options.choose(gguf, pattern, quantize::format(format)?)?;
    }
    Ok(options)
}
