//! `halfbyte quantize`: a GGUF file with its weights in other formats.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use halfbyte::convert::budget::{self, Budget, Choice};
use halfbyte::convert::quantize::{self, Importances, Mix, Options, mixes};
use halfbyte::engine::default_threads;
use halfbyte::gguf::Gguf;
use halfbyte::{Error, Result, check_output};

use super::interrupt::Interrupt;
use super::making::{self, Threads};
use super::{fetch, number_within, out, read_text};

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

    #[arg(value_name = "TYPE", help = format!("What to make of it, by llama.cpp's name: {}", names()))]
    mix: String,

    /// Store all matrices in the one format that the mix is named after, but for those that other options name, and those whose rows
    /// its blocks do not fill
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

    /// An importance matrix: errors of columns that are multiplied with large numbers count more (see `halfbyte imatrix`)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Take a file that is quantized already: it adds error to error
    #[arg(long)]
    allow_requantize: bool,

    /// Take TYPE for the worst format of a matrix, and better ones where they help most, until the divergence from the model itself
    /// on a text is at most X nats a token
    #[arg(long, value_name = "X", requires = "kld_text", conflicts_with = "pure", value_parser = number_within(0.0, f32::MAX))]
    max_kld: Option<f32>,

    /// The text to measure divergence on
    #[arg(long, value_name = "FILE", requires = "max_kld")]
    kld_text: Option<PathBuf>,

    /// Tokens of the text to read
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=8192))]
    kld_tokens: u32,

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
    let texts = [&args.imatrix, &args.kld_text].into_iter().flatten();
    let inputs: Vec<_> = gguf.files().chain(texts.map(PathBuf::as_path)).collect();
    if !args.dry_run {
        check_output(&args.output, inputs.iter().copied())?;
    }
    let mut options = options(args, mix, &gguf)?;
    if let (Some(max_kld), Some(text)) = (args.max_kld, &args.kld_text) {
        let found = search(args, &gguf, &options, f64::from(max_kld), text)?;
        super::note(&format!(
            "divergence of {:.5} nats a token, after {:.5} with {mix} alone",
            found.kld, found.floor_kld
        ));
        // What was asked for by name comes before what was found.
        found.chosen.into_iter().for_each(|(name, format)| _ = options.chosen.entry(name).or_insert(format));
    }
    let plan = quantize::plan(&gguf, &options)?;
    making::note_fallbacks(&plan);
    if args.dry_run {
        out(making::table(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    making::write(&Interrupt::install()?, &plan, &args.output, &inputs, args.threads.get())?;
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
        importance: args.imatrix.as_deref().map(Importances::read).transpose()?,
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

/// Finds the formats that keep the file within a divergence.
fn search(args: &Args, gguf: &Gguf, options: &Options, max_kld: f64, text: &Path) -> Result<Choice> {
    let text = read_text(text)?;
    let threads = args.threads.get().unwrap_or_else(default_threads);
    let budget = Budget { max_kld, text: &text, n_tokens: args.kld_tokens as usize, threads };
    let bar = making::bar("{msg} {wide_bar:.cyan/dim} {pos}/{len} {eta}");
    let found = budget::search(gguf, options, &budget, &mut |what, done, total| {
        bar.set_message(what.to_owned());
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    found
}
