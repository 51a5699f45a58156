//! How a profile is shown: a table for people, and JSON.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::backend::{KernelProfile, PhaseProfile, Profile};
use serde_json::{Value, json};

/// A table for each phase.
pub(super) fn to_table(profile: &Profile) -> String {
    let how = if profile.pass_per_call {
        "each call in a pass of its own, as this device takes no timestamps inside one: more time outside kernels than usual"
    } else {
        "timestamps between calls"
    };
    let mut text = format!("the device reads {:.1} GB/s at best; {how}\n", profile.read_bandwidth / 1e9);
    for phase in &profile.phases {
        let steps = phase.steps as f64;
        let elapsed = phase.elapsed.as_secs_f64();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{}: {} steps, {} tokens, {:.3} ms a step\n{}\n",
            phase.name,
            phase.steps,
            phase.rows,
            1e3 * elapsed / steps,
            phase_table(phase, profile.read_bandwidth)
        );
    }
    text
}

fn phase_table(phase: &PhaseProfile, read_bandwidth: f64) -> Table {
    let (steps, elapsed) = (phase.steps as f64, phase.elapsed.as_secs_f64());
    let time = |seconds: f64| [format!("{:.3}", 1e3 * seconds / steps), format!("{:.1} %", 100.0 * seconds / elapsed)];
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["kernel", "calls a step", "ms a step", "share", "MB a step", "GB/s", "of the best"]);
    let mut row = |name: &str, calls: String, seconds: f64, bytes: Option<[String; 3]>| {
        let [ms, share] = time(seconds);
        let [mb, rate, part] = bytes.unwrap_or_default();
        table.add_row([name.to_owned(), calls, ms, share, mb, rate, part]);
    };
    for kernel in &phase.kernels {
        let KernelProfile { name, calls, time, .. } = kernel;
        let rate = kernel.bandwidth();
        let bytes = [
            format!("{:.3}", kernel.bytes() as f64 / 1e6 / steps),
            format!("{:.1}", rate / 1e9),
            format!("{:.0} %", 100.0 * rate / read_bandwidth),
        ];
        row(name, format!("{:.1}", *calls as f64 / steps), time.as_secs_f64(), Some(bytes));
    }
    row("outside kernels", String::new(), phase.outside().as_secs_f64(), None);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The same numbers, not divided by anything.
pub(super) fn to_json(profile: &Profile) -> Value {
    let kernel = |kernel: &KernelProfile| {
        json!({
            "kernel": kernel.name,
            "calls": kernel.calls,
            "seconds": kernel.time.as_secs_f64(),
            "weight_bytes": kernel.weight_bytes,
            "kv_bytes": kernel.kv_bytes,
            "tensor_bytes": kernel.tensor_bytes,
            "bytes_per_second": kernel.bandwidth(),
        })
    };
    let phase = |phase: &PhaseProfile| {
        json!({
            "phase": phase.name,
            "steps": phase.steps,
            "rows": phase.rows,
            "seconds": phase.elapsed.as_secs_f64(),
            "outside_seconds": phase.outside().as_secs_f64(),
            "kernels": phase.kernels.iter().map(kernel).collect::<Vec<_>>(),
        })
    };
    json!({
        "read_bytes_per_second": profile.read_bandwidth,
        "timestamps": if profile.pass_per_call { "pass per call" } else { "inside passes" },
        "phases": profile.phases.iter().map(phase).collect::<Vec<_>>(),
    })
}
