//! `halfbyte inspect`: what a model file holds, and what would be computed with it.
//!
//! Works on any GGUF file: formats and architectures that cannot be run are shown like others, and said to be so.

use std::fmt::Write;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::gguf::{Gguf, TensorInfo, Value};
use halfbyte::graph::Graph;
use halfbyte::model::Model;
use halfbyte::{Error, Result};
use indicatif::DecimalBytes;
use serde_json::json;

use super::{fetch, out};

/// Show what is in a model file: metadata, tensors, and the graph that is computed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte inspect model.gguf
  halfbyte inspect model.gguf --show tensors,formats
  halfbyte inspect model.gguf --key tokenizer.chat_template")]
pub(super) struct Args {
    /// A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    model: String,

    /// Show these sections only
    #[arg(long, value_name = "SECTION,…", value_enum, value_delimiter = ',')]
    #[arg(default_values_t = [Section::Metadata, Section::Tensors, Section::Formats, Section::Graph])]
    show: Vec<Section>,

    /// Print the value of this metadata key, whole: text as it is, an array with one item a line
    #[arg(long, value_name = "KEY", conflicts_with = "show")]
    key: Option<String>,

    /// Print one JSON object; long arrays are cut to their type and length (but not with `--key`)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    /// Keys and values
    Metadata,
    /// Name, shape, format and size of each tensor
    Tensors,
    /// What each format takes, in all
    Formats,
    /// The ops of a step
    Graph,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let file = Gguf::open(&fetch::model(&args.model)?)?;
    let text = match (&args.key, args.json) {
        (Some(key), json) => one_value(&file, key, json)?,
        (None, true) => format!("{}\n", to_json(&file, &args.show)),
        (None, false) => to_text(&file, &args.show),
    };
    out(text)?;
    Ok(ExitCode::SUCCESS)
}

fn one_value(file: &Gguf, key: &str, json: bool) -> Result<String> {
    let value = file.metadata().get(key).ok_or_else(|| Error::MissingKey { key: key.into() })?;
    Ok(match value {
        _ if json => format!("{}\n", value_json(value, usize::MAX)),
        Value::Array(array) => array.iter().fold(String::new(), |text, item| text + &whole(&item) + "\n"),
        _ => whole(value) + "\n",
    })
}

/// A value in full; nested arrays excepted.
fn whole(value: &Value) -> String {
    match value {
        Value::String(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.to_string(),
    }
}

fn to_text(file: &Gguf, show: &[Section]) -> String {
    let parts = if file.n_parts() > 1 { format!(" in {} parts", file.n_parts()) } else { String::new() };
    let mut text = format!(
        "{}: GGUF version {}, {}{parts}, {} keys, {} tensors, {} weights\n",
        file.path().display(),
        file.version(),
        DecimalBytes(file.n_bytes() as u64),
        file.metadata().len(),
        file.tensors().len(),
        n_weights(file.tensors().iter()),
    );
    for section in show {
        let body = match section {
            Section::Metadata => metadata(file),
            Section::Tensors => tensors(file),
            Section::Formats => formats(file),
            Section::Graph => graph(file).map_or_else(|why| format!("none: {why}\n"), |graph| graph.to_string()),
        };
        let title = format!("{section:?}").to_lowercase();
        write!(text, "\n{title}\n{body}").expect("memory takes everything");
    }
    text
}

fn metadata(file: &Gguf) -> String {
    let mut table = table();
    for (key, value) in file.metadata().iter() {
        let value_type = match value {
            Value::Array(array) => format!("[{}]", array.item_type()),
            scalar => scalar.value_type().to_string(),
        };
        table.add_row([key.to_owned(), value_type, value.to_string()]);
    }
    lines(table, &[])
}

fn tensors(file: &Gguf) -> String {
    let mut table = table();
    for t in file.tensors() {
        let n_bytes = t.n_bytes.map_or_else(|| "?".into(), |n| n.to_string());
        table.add_row([t.name.clone(), format!("{:?}", t.shape), t.format_name().into_owned(), n_bytes]);
    }
    lines(table, &[3])
}

fn formats(file: &Gguf) -> String {
    let mut table = table();
    for total in totals(file) {
        table.add_row([
            total.name.clone(),
            format!("{} tensors", total.n_tensors),
            format!("{} weights", total.n_weights),
            total.n_bytes.map_or_else(|| "? bytes".into(), |n| format!("{n} bytes")),
            if total.supported { String::new() } else { "not supported".into() },
        ]);
    }
    lines(table, &[1, 2, 3])
}

/// What the tensors of one format come to.
struct Total {
    name: String,
    supported: bool,
    n_tensors: usize,
    n_weights: u128,
    n_bytes: Option<usize>,
}

/// One for each format of the file, the one with most weights first.
fn totals(file: &Gguf) -> Vec<Total> {
    let mut ids: Vec<u32> = file.tensors().iter().map(|t| t.format_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let total = |id| {
        let of_id = || file.tensors().iter().filter(move |t| t.format_id == id);
        let first = of_id().next()?;
        Some(Total {
            name: first.format_name().into_owned(),
            supported: first.format().is_some(),
            n_tensors: of_id().count(),
            n_weights: n_weights(of_id()),
            n_bytes: of_id().map(|t| t.n_bytes).sum(),
        })
    };
    let mut totals: Vec<Total> = ids.into_iter().filter_map(total).collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.n_weights));
    totals
}

/// In 128 bits, since a file may list the same bytes under many names.
fn n_weights<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> u128 {
    tensors.map(|t| t.n_elements() as u128).sum()
}

fn graph(file: &Gguf) -> Result<Graph> {
    Ok(Model::from_gguf(file)?.graph)
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// The text of a table; the numbers in the columns `right` end in line.
fn lines(mut table: Table, right: &[usize]) -> String {
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn to_json(file: &Gguf, show: &[Section]) -> serde_json::Value {
    let mut json = json!({
        "path": file.path(),
        "version": file.version(),
        "alignment": file.alignment(),
        "n_parts": file.n_parts(),
        "n_bytes": file.n_bytes(),
    });
    for section in show {
        match section {
            Section::Metadata => {
                let entries = file.metadata().iter().map(|(key, value)| (key.to_owned(), value_json(value, 16)));
                json["metadata"] = entries.collect::<serde_json::Map<_, _>>().into();
            }
            Section::Tensors => json["tensors"] = file.tensors().iter().map(tensor_json).collect(),
            Section::Formats => {
                let total = |t: &Total| {
                    json!({ "format": t.name, "supported": t.supported, "n_tensors": t.n_tensors,
                        "n_weights": u64::try_from(t.n_weights).ok(), "n_bytes": t.n_bytes })
                };
                json["formats"] = totals(file).iter().map(total).collect();
            }
            Section::Graph => match graph(file) {
                Ok(graph) => json["graph"] = graph.to_string().lines().collect(),
                Err(why) => json["graph_error"] = why.to_string().into(),
            },
        }
    }
    json
}

fn tensor_json(t: &TensorInfo) -> serde_json::Value {
    json!({ "name": t.name, "shape": t.shape, "format": t.format_name(), "supported": t.format().is_some(),
        "part": t.part, "offset": t.offset, "n_bytes": t.n_bytes })
}

/// A value as JSON; of an array with more than `most` items only what they are and how many.
fn value_json(value: &Value, most: usize) -> serde_json::Value {
    match value {
        Value::F32(v) => (*v).into(),
        Value::F64(v) => (*v).into(),
        Value::Bool(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::String(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(array) if array.len() > most => {
            json!({ "items": array.item_type().to_string(), "len": array.len() })
        }
        Value::Array(array) => array.iter().map(|item| value_json(&item, most)).collect(),
        other => other.int().and_then(|v| i64::try_from(v).ok()).into(),
    }
}
