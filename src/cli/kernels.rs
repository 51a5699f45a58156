//! `halfbyte kernels`: every GPU kernel as data, and what a driver's compiler says to each.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use halfbyte::Result;
use halfbyte::backend::gpu::{Compiler, DeviceOptions, Kernel, kernels};
use halfbyte::gguf::Gguf;
use halfbyte::model::Model;
use serde_json::{Map, Value, json};

use super::{fetch, out};

/// List the GPU kernels that models are run with
///
/// Without an adapter: those of every kind of device. With one: those that it would use, and those that it would use if it
/// had no subgroups or no f16. Kernels depend on a model's shapes; without a model they are listed for the shapes of several
/// well-known ones, in all formats.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte kernels
  halfbyte kernels matvec --json
  halfbyte kernels --compile --adapter radeon")]
pub(super) struct Args {
    /// Only kernels whose names contain this
    #[arg(value_name = "PART")]
    part: Option<String>,

    /// Compile each, one after another; its name goes to standard error before
    #[arg(long)]
    compile: bool,

    /// Of kernels that differ in constants only, take one
    #[arg(long)]
    once: bool,

    /// Kernels of this adapter: a part of its name
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,

    /// Kernels of this model: a GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let model = match &args.model {
        Some(name) => Some(Model::from_gguf(&Gguf::open(&fetch::model(name)?)?)?),
        None => None,
    };
    let model = model.as_ref().map(|model| (&model.graph, model as &dyn halfbyte::quant::Weights));
    let compiler = match (&args.adapter, args.compile) {
        (None, false) => None,
        (name, _) => Some(Compiler::open(&DeviceOptions { name: name.clone(), ..DeviceOptions::default() })?),
    };
    let mut kernels = match &compiler {
        Some(compiler) => compiler.kernels(model)?,
        None => kernels(model)?,
    };
    if let Some(part) = &args.part {
        kernels.retain(|kernel| kernel.name.contains(part.as_str()));
    }
    if args.once {
        // Of namesakes the last: those with the largest constants, more or less.
        kernels.reverse();
        kernels.dedup_by(|a, b| base(a) == base(b));
        kernels.reverse();
    }
    match compiler.filter(|_| args.compile) {
        Some(compiler) => compile(&compiler, &kernels)?,
        None => out(if args.json { to_json(&kernels) } else { to_table(&kernels) })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn compile(compiler: &Compiler, kernels: &[Kernel]) -> Result<()> {
    let mut failed = Vec::new();
    for kernel in kernels {
        // Drivers write to standard error themselves: whoever reads it can tell from these lines what they speak of.
        anstream::eprintln!("kernel: {}", kernel.name);
        if let Err(error) = compiler.compile(kernel) {
            anstream::eprintln!("failed: {}: {error}", kernel.name);
            failed.push(kernel.name.clone());
        }
    }
    if !failed.is_empty() {
        return Err(compiler.refused(&failed));
    }
    out(format!("{} kernels compiled for {}\n", kernels.len(), compiler.adapter()))
}

fn to_table(kernels: &[Kernel]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["kernel", "constants", "devices"]);
    for kernel in kernels {
        let constants = kernel.constants.iter().map(|(name, value)| format!("{name}={}", number(*value)));
        table.add_row([base(kernel).to_owned(), constants.collect::<Vec<_>>().join(" "), kernel.devices.clone()]);
    }
    format!("{}\n\n{} kernels\n", table.trim_fmt(), kernels.len())
}

fn to_json(kernels: &[Kernel]) -> String {
    let kernel = |kernel: &Kernel| {
        let modules: Map<_, _> = kernel.modules.iter().map(|(slot, file)| (slot.to_string(), json!(file))).collect();
        let constants: Map<_, _> = kernel.constants.iter().map(|(name, x)| (name.to_string(), number(*x))).collect();
        json!({
            "name": kernel.name,
            "kernel": kernel.kernel,
            "modules": modules,
            "constants": constants,
            "weights_per_turn": kernel.turn.map(|turn| turn.weights),
            "bytes_per_turn": kernel.turn.map(|turn| turn.bytes),
            "devices": kernel.devices,
            "as_it_is": kernel.as_it_is,
        })
    };
    format!("{}\n", json!({ "kernels": kernels.iter().map(kernel).collect::<Vec<_>>() }))
}

/// The name without constants.
fn base(kernel: &Kernel) -> &str {
    kernel.name.split('@').next().unwrap_or_default()
}

/// A constant as it is in the source: a whole number, or one of 32 bits.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 { json!(x as i64) } else { json!(x as f32) }
}
