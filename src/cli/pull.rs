//! `halfbyte pull`: fetches models, and tells where they lie.

use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::hub::Hub;
use halfbyte::{Result, hub};
use indicatif::DecimalBytes;

use super::{fetch, out};

/// Fetch models, and print where they lie
///
/// The other commands fetch what they need by themselves.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte pull smollm2-135m
  halfbyte pull hf:OWNER/REPO:Q4_K_M
  halfbyte pull --list")]
pub(super) struct Args {
    /// Names of the catalogue, or `hf:OWNER/REPO[:FILE-part]`
    #[arg(value_name = "MODEL", default_value = hub::DEFAULT_MODEL)]
    models: Vec<String>,

    /// List the models that have a name
    #[arg(long, conflicts_with = "models")]
    list: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        out(format_args!("{}\n", list()?.trim_fmt()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for model in &args.models {
        out(format_args!("{}\n", fetch::model(model)?.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<Table> {
    let hub = Hub::from_env()?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for entry in &hub.catalogue {
        let cached = if hub.cached(entry).is_some() { "here" } else { "" };
        table.add_row([entry.name, &DecimalBytes(entry.bytes).to_string(), cached, entry.description]);
    }
    if let Some(bytes) = table.column_mut(1) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}
