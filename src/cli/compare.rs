//! `halfbyte compare`: where two runs of a model begin to differ.

use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::backend::compare::Difference;
use halfbyte::backend::cpu::Kernels;
use halfbyte::engine::{Device, EngineOptions, Facts};
use halfbyte::eval::{Comparison, Subject, compare};
use halfbyte::{Error, Result};
use serde_json::json;

use super::model::with_upload_bar;
use super::{fetch, number_within, out};

/// Find the first tensor in which two runs differ
///
/// The prompt is run twice, all but its last token at once and then that token, and each tensor of the first run is compared with
/// that of the second one: two files (A B), two devices (`--device gpu,cpu`), or two kinds of kernels (`--kernels avx2,reference`).
/// With none of these, the run is compared with the reference on the CPU. An error in one tensor shows in all that
/// follow, so it is the first one that is named; the exit code is 1 then.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte compare model.gguf --device gpu
  halfbyte compare model.gguf --device gpu,cpu --prompt \"Roses are red,\" --limit 1e-5
  halfbyte compare model-q4_0.gguf model-f16.gguf --limit 1 --json")]
pub(super) struct Args {
    /// A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(value_name = "A")]
    model: String,

    /// The file of the second run [default: the same]
    #[arg(value_name = "B")]
    other: Option<String>,

    /// What is run
    #[arg(short, long, value_name = "TEXT", default_value = "The first man on the moon was")]
    prompt: String,

    /// `auto`, `cpu`, `gpu`, or a part of an adapter's name, for each run or for both
    #[arg(long, value_name = "DEVICE,…", value_delimiter = ',', default_value = "auto")]
    device: Vec<String>,

    /// Kernels of the CPU, for each run or for both: `fast`, `reference`, or an instruction set
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    kernels: Vec<String>,

    /// How far a tensor may be off: Σ(a - b)² / Σb²
    #[arg(long, value_name = "NMSE", default_value_t = 1e-4, value_parser = number_within(0.0, f32::MAX))]
    limit: f32,

    /// Threads, on the CPU [default: one per physical core]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = super::n_threads)]
    threads: Option<usize>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let [a, b] = args.subjects()?;
    let limit = f64::from(args.limit);
    let comparison = with_upload_bar(|progress| compare([&a, &b], &args.prompt, limit, progress))?;
    let labels = [&a, &b].map(|subject| subject.options.kernels);
    let labels = [0, 1].map(|i| label(&comparison.facts[i], labels[i]));
    out(if args.json { to_json(&comparison, &labels, limit) } else { to_text(&comparison, &labels) })?;
    Ok(ExitCode::from(u8::from(comparison.first_beyond().is_some())))
}

impl Args {
    /// Both runs. If nothing tells them apart, the second one is the reference.
    fn subjects(&self) -> Result<[Subject; 2]> {
        let kernels = self.kernels.iter().map(|name| parse_kernels(name)).collect::<Result<Vec<_>>>()?;
        for (option, n) in [("--device", self.device.len()), ("--kernels", kernels.len())] {
            if n > 2 {
                let hint = format!("halfbyte compare {} {option} ONE,OTHER", self.model);
                return Err(Error::Usage { what: format!("`{option}` names {n}, and there are two runs"), hint });
            }
        }
        let subject = |model: &str, i: usize| {
            let name = self.device.get(i).or(self.device.first()).map_or("auto", String::as_str);
            let device: Device = name.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
            let threads = self.threads.filter(|&n| n > 0);
            let kernels = kernels.get(i).or(kernels.first()).copied();
            let options = EngineOptions { device, threads, kernels, ..EngineOptions::default() };
            Ok(Subject { path: fetch::model(model)?, options })
        };
        let (a, mut b) = (subject(&self.model, 0)?, subject(self.other.as_ref().unwrap_or(&self.model), 1)?);
        if self.other.is_none() && self.device.len() < 2 && kernels.len() < 2 {
            b.options = EngineOptions { device: Device::Cpu, kernels: Some(Kernels::Reference), ..b.options };
        }
        Ok([a, b])
    }
}

fn parse_kernels(name: &str) -> Result<Kernels> {
    name.parse().map_err(|()| Error::Usage {
        what: format!("there are no kernels `{name}`"),
        hint: format!("it can be one of: {}", Kernels::names().join(", ")),
    })
}

/// A run, for people.
fn label(facts: &Facts, kernels: Option<Kernels>) -> String {
    match kernels.filter(|_| facts.threads.is_some()) {
        Some(kernels) => format!("{} on {}, {kernels} kernels", facts.model, facts.device),
        None => format!("{} on {}", facts.model, facts.device),
    }
}

fn to_text(comparison: &Comparison, labels: &[String; 2]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let steps = comparison.phases.iter().map(|phase| format!("T = {}", phase.n_rows));
    table.set_header(["tensor".into(), "width".into()].into_iter().chain(steps));
    for tensor in &comparison.phases[0].tensors {
        let cell = |tensor: &Difference| format!("{:.1e}{}", tensor.nmse, if tensor.is_beyond() { " !" } else { "  " });
        // A step of one row may be made in fewer pieces.
        let found = comparison.phases.iter().map(|phase| phase.tensors.iter().find(|t| t.tensor == tensor.tensor));
        let cells = found.map(|tensor| tensor.map_or_else(|| "-  ".into(), cell));
        table.add_row([tensor.tensor.clone(), tensor.width.to_string()].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let verdict = match comparison.first_beyond() {
        Some((n_rows, tensor)) => format!("first beyond the limit, in the step of T = {n_rows}: {tensor}"),
        None => "no tensor is beyond the limit".into(),
    };
    format!("a: {}\nb: {}\nnmse of a to b:\n\n{table}\n\n{verdict}\n", labels[0], labels[1])
}

fn to_json(comparison: &Comparison, labels: &[String; 2], limit: f64) -> String {
    let tensor = |tensor: &Difference| {
        json!({
            "tensor": tensor.tensor,
            "width": tensor.width,
            "nmse": tensor.nmse,
            "at": tensor.at,
            "values": tensor.values,
        })
    };
    let phases = comparison.phases.iter().map(
        |phase| json!({ "n_rows": phase.n_rows, "tensors": phase.tensors.iter().map(tensor).collect::<Vec<_>>() }),
    );
    let first = comparison.first_beyond().map(|(n_rows, difference)| {
        let mut json = tensor(difference);
        json["n_rows"] = n_rows.into();
        json
    });
    let json = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "a": labels[0],
        "b": labels[1],
        "limit": limit,
        "first_beyond": first,
        "phases": phases.collect::<Vec<_>>(),
    });
    format!("{json}\n")
}
