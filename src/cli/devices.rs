//! `halfbyte devices`: what a model could run on, and what it would run on.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use halfbyte::Result;
use halfbyte::backend::gpu::{AdapterInfo, AdapterKind, DeviceOptions, adapters, matrices};
use halfbyte::engine::{Choice, Device, available_bytes, choose, default_threads};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::out;

/// List the devices that a model could run on, and say which one is chosen and why
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte devices
  halfbyte devices --device radeon")]
pub(super) struct Args {
    /// Choose as `generate --device` would
    #[arg(long, value_name = "DEVICE", env = "HALFBYTE_DEVICE", hide_env_values = true, default_value = "auto")]
    device: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let device: Device = args.device.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    let adapters = adapters();
    let choice = choose(&device, &adapters)?;
    let text = if args.json { to_json(&adapters, &choice) } else { to_table(&adapters, &choice) };
    out(text)?;
    Ok(ExitCode::SUCCESS)
}

fn to_table(adapters: &[AdapterInfo], choice: &Choice) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "device", "kind", "back end", "driver", "memory", "largest buffer, binding", "features"]);
    let mark = |chosen: bool| if chosen { "*" } else { "" }.to_owned();
    for (i, a) in adapters.iter().enumerate() {
        table.add_row([
            mark(choice.adapter == Some(i)),
            a.name.clone(),
            kind(a.kind).into(),
            a.backend.clone(),
            a.driver.clone(),
            memory(a).map_or_else(|| "its own".into(), |bytes| HumanBytes(bytes).to_string()),
            format!("{}, {}", HumanBytes(a.max_buffer_bytes), HumanBytes(a.max_binding_bytes)),
            features(a).join(", "),
        ]);
    }
    table.add_row([
        mark(choice.adapter.is_none()),
        "CPU".into(),
        "cpu".into(),
        format!("{} threads", default_threads()),
        String::new(),
        available_bytes().map_or_else(|| "?".into(), |bytes| HumanBytes(bytes).to_string()),
        String::new(),
        String::new(),
    ]);
    format!("{}\n\nchosen: {}\n", table.trim_fmt(), choice.reason)
}

fn to_json(adapters: &[AdapterInfo], choice: &Choice) -> String {
    let adapter = |a: &AdapterInfo| -> Value {
        json!({
            "name": a.name,
            "kind": kind(a.kind),
            "backend": a.backend,
            "driver": a.driver,
            "available_bytes": memory(a),
            "max_buffer_bytes": a.max_buffer_bytes,
            "max_binding_bytes": a.max_binding_bytes,
            "subgroup_sizes": a.subgroups.map(|(min, max)| [min, max]),
            "f16": a.f16,
            "matrices": a.matrix_side.map(|_| matrix_note(a)),
        })
    };
    let json = json!({
        "adapters": adapters.iter().map(adapter).collect::<Vec<_>>(),
        "cpu": { "threads": default_threads(), "available_bytes": available_bytes() },
        "chosen": choice.adapter.map_or("cpu", |i| &adapters[i].name),
        "reason": choice.reason,
    });
    format!("{json}\n")
}

/// What is free of the memory that the adapter uses, where that is the system's. A card's own can't be asked for.
fn memory(adapter: &AdapterInfo) -> Option<u64> {
    if adapter.kind == AdapterKind::Discrete { None } else { available_bytes() }
}

fn kind(kind: AdapterKind) -> &'static str {
    match kind {
        AdapterKind::Discrete => "discrete",
        AdapterKind::Integrated => "integrated",
        AdapterKind::Other => "other",
        AdapterKind::Software => "software",
    }
}

fn features(adapter: &AdapterInfo) -> Vec<String> {
    let subgroups = adapter.subgroups.map(|(min, max)| {
        if min == max { format!("subgroups of {min}") } else { format!("subgroups of {min} to {max}") }
    });
    let matrices = adapter.matrix_side.map(|_| matrix_note(adapter));
    subgroups.into_iter().chain(adapter.f16.then(|| "f16".to_owned())).chain(matrices).collect()
}

/// Whether the adapter's cooperative matrices are used, which is found out by multiplying on it.
fn matrix_note(adapter: &AdapterInfo) -> String {
    let options = DeviceOptions { name: Some(adapter.name.clone()), ..DeviceOptions::default() };
    matrices(&options).unwrap_or_else(|error| error.to_string())
}
