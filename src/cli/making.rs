//! What commands that make a file have in common: a bar, threads, Ctrl-C, and what came of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::Result;
use halfbyte::convert::{self, Plan};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::interrupt::{self, Interrupt};

const BAR: &str = "{msg} {wide_bar:.cyan/dim} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

/// Threads that make a file.
#[derive(clap::Args)]
pub(super) struct Threads {
    /// Threads [default: one per processor]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = super::n_threads)]
    threads: Option<usize>,
}

impl Threads {
    /// As many as were asked for.
    pub(super) fn get(&self) -> Option<usize> {
        self.threads.filter(|&n| n > 0)
    }
}

/// Writes the file; a first Ctrl-C ends that, and leaves nothing behind.
///
/// # Errors
/// If it cannot be written, or was interrupted.
pub(super) fn write(
    ctrl_c: &Interrupt,
    plan: &Plan,
    path: &Path,
    inputs: &[&Path],
    threads: Option<usize>,
) -> Result<()> {
    let mut interrupted = ctrl_c.listen();
    let bar = bar(BAR);
    bar.set_length(plan.n_bytes());
    bar.enable_steady_tick(Duration::from_millis(200));
    let result = convert::with_threads(threads, || {
        plan.write(path, inputs.iter().copied(), &mut |advance| {
            bar.set_message(advance.tensor.to_owned());
            bar.set_position(advance.done_bytes);
            interrupt::flow(&mut interrupted)
        })
    });
    bar.finish_and_clear();
    result
}

/// A bar that looks like `template`, of no length yet.
pub(super) fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Size, and how many tensors are stored as what: `3.83 GB, 4.55 bits a weight: 225 Q4_0, 1 Q6_K, 65 F32`.
pub(super) fn summary(plan: &Plan) -> String {
    let mut counts = BTreeMap::new();
    for tensor in &plan.tensors {
        *counts.entry(tensor.format_name()).or_insert(0) += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let counts: Vec<String> = counts.into_iter().map(|(format, n)| format!("{n} {format}")).collect();
    let bits = 8.0 * plan.n_bytes() as f64 / plan.n_elements() as f64;
    format!("{}, {bits:.2} bits a weight: {}", DecimalBytes(plan.n_bytes()), counts.join(", "))
}

/// Says which tensors could not have the format that they were to have.
pub(super) fn note_fallbacks(plan: &Plan) {
    let mut counts = BTreeMap::new();
    for tensor in &plan.tensors {
        if let Some(wanted) = tensor.wanted {
            *counts.entry((wanted, tensor.format_name())).or_insert(0) += 1;
        }
    }
    let n: usize = counts.values().sum();
    if n > 0 {
        let each = counts.iter().map(|((wanted, format), n)| format!("{n} {format} in place of {wanted}"));
        let each = each.collect::<Vec<_>>().join(", ");
        super::note(&format!("{n} of {} tensors have rows that blocks do not fill: {each}", plan.tensors.len()));
    }
}

/// A row for each tensor, and the summary.
pub(super) fn table(plan: &Plan) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for tensor in &plan.tensors {
        let size = DecimalBytes(tensor.n_bytes() as u64).to_string();
        table.add_row([tensor.name.clone(), format!("{:?}", tensor.shape), tensor.format_name().into(), size]);
    }
    if let Some(bytes) = table.column_mut(3) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    format!("{}\n\n{}\n", table.trim_fmt(), summary(plan))
}
