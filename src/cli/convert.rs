//! `halfbyte convert`: a GGUF file of a model as it was published.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use halfbyte::Result;
use halfbyte::convert::quantize::{Mix, mixes};
use halfbyte::convert::{self, Plan};

use super::interrupt::Interrupt;
use super::making::{self, Threads};
use super::{note, out};

/// Make a GGUF file of a model as it was published: by Hugging Face's form, or Meta's
///
/// Hugging Face's form is a folder with config.json, safetensors, and tokenizer.json or tokenizer.model; Meta's is one with
/// params.json and consolidated.00.pth, whose pickles are read but not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte convert ./SmolLM2-135M-Instruct
  halfbyte convert ./SmolLM2-135M-Instruct model-Q4_K_M.gguf --type Q4_K_M
  halfbyte convert ./LLaMA/7B llama-7b-Q4_0.gguf --type Q4_0")]
pub(super) struct Args {
    /// A folder with a model
    folder: PathBuf,

    /// The file to write [default: FOLDER/NAME-TYPE.gguf]
    #[arg(value_name = "OUT")]
    output: Option<PathBuf>,

    #[arg(long = "type", visible_alias = "outtype", value_name = "TYPE", help = help())]
    mix: Option<String>,

    /// Say what each tensor would become, and write nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    threads: Threads,
}

fn help() -> String {
    let names = mixes().map(|mix| mix.name).collect::<Vec<_>>().join(", ");
    format!("How to store the weights [default: BF16 or F16, as the model does]: {names}")
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mix = args.mix.as_deref().map(Mix::by_name).transpose()?;
    let (plan, inputs) = convert::plan(&args.folder, mix)?;
    plan.notes.iter().for_each(|text| note(text));
    making::note_fallbacks(&plan);
    if args.dry_run {
        out(making::table(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.folder, &plan, mix));
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    making::write(&Interrupt::install()?, &plan, &output, &inputs, args.threads.get())?;
    out(format_args!("{}: {}\n", output.display(), making::summary(&plan)))?;
    Ok(ExitCode::SUCCESS)
}

/// In the folder, named like it.
fn default_output(folder: &Path, plan: &Plan, mix: Option<Mix>) -> PathBuf {
    let name = folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    // Without a mix, matrices have the one format that is not for vectors.
    let is_matrix = |format: &&str| *format != "F32";
    let plain = plan.tensors.iter().map(|tensor| tensor.format_name()).find(is_matrix).unwrap_or("F32");
    folder.join(format!("{}-{}.gguf", name.as_deref().unwrap_or("model"), mix.map_or(plain, |mix| mix.name)))
}
