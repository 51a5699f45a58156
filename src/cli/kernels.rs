//! `halfbyte kernels`: every GPU kernel as data, and what a driver's compiler says to each.

use std::collections::{BTreeSet, HashSet};
use std::iter;
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

    /// As `--once`, and of a kernel's variants so many that any two modules are together in one if they are in any
    #[arg(long)]
    pairs: bool,

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
    if args.once || args.pairs {
        // Of namesakes the last: those with the largest constants, more or less.
        kernels.reverse();
        kernels.dedup_by(|a, b| base(a) == base(b));
        kernels.reverse();
    }
    if args.pairs {
        kernels = kernels.chunk_by(|a, b| a.kernel == b.kernel).flat_map(each_pair).collect();
    }
    match compiler.filter(|_| args.compile) {
        Some(compiler) => compile(&compiler, &kernels)?,
        None => out(if args.json { to_json(&kernels) } else { to_table(&kernels) })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Of a kernel's variants so many that each pair of modules is in one; those first that have most of the missing ones.
fn each_pair(variants: &[Kernel]) -> Vec<Kernel> {
    let pairs: Vec<HashSet<_>> = variants.iter().map(pairs).collect();
    let mut missing: HashSet<_> = pairs.iter().flatten().copied().collect();
    let mut taken = BTreeSet::new();
    while !missing.is_empty() {
        let best = (0..variants.len()).max_by_key(|&i| pairs[i].intersection(&missing).count());
        let best = best.expect("what is missing is in one");
        missing.retain(|pair| !pairs[best].contains(pair));
        taken.insert(best);
    }
    taken.into_iter().map(|i| variants[i].clone()).collect()
}

/// Each two modules of a kernel, each with itself, and the kernel as one of them.
fn pairs(kernel: &Kernel) -> HashSet<[(&'static str, &'static str); 2]> {
    let modules: Vec<_> = iter::once(("kernel", kernel.kernel)).chain(kernel.modules.iter().copied()).collect();
    modules.iter().flat_map(|&a| modules.iter().map(move |&b| [a, b])).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_variants_have_each_pair_of_modules() {
        let all = kernels(None).expect("the kernels can be listed");
        let few: Vec<Kernel> = all.chunk_by(|a, b| a.kernel == b.kernel).flat_map(each_pair).collect();
        let pairs_of = |kernels: &[Kernel]| -> HashSet<_> {
            kernels.iter().flat_map(|kernel| pairs(kernel).into_iter().map(|pair| (kernel.kernel, pair))).collect()
        };
        assert_eq!(pairs_of(&few), pairs_of(&all));
        assert!(few.len() * 4 < all.len(), "{} of {}", few.len(), all.len());
        assert!(few.is_sorted_by_key(|kernel| all.iter().position(|other| other.name == kernel.name)));
    }
}
