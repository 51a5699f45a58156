//! Turns a model's name into a file while the user watches: a bar on a terminal, a line for each step elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use halfbyte::Result;
use halfbyte::hub::{self, Event};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

const BAR: &str = "{wide_bar:.cyan/dim} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

/// The file of the model with this name, path or address; see [`hub::resolve`].
///
/// # Errors
/// If there is no such model, or it cannot be fetched.
pub(super) fn model(name: &str) -> Result<PathBuf> {
    // Draws on standard error, and nothing where that is no terminal.
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    let say = |text: String| {
        bar.suspend(|| anstream::eprintln!("{text}"));
    };
    let path = hub::resolve(name, &mut |event| match event {
        Event::Started { file, from, total_bytes } => {
            say(format!("Fetching {file} ({}) from {from}", DecimalBytes(total_bytes)));
            bar.reset();
            bar.set_length(total_bytes);
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Event::Advanced { done_bytes, .. } => bar.set_position(done_bytes),
        Event::Waiting { file } => say(format!("Waiting for another process that fetches {file}")),
        Event::Failed { from, why } => say(format!("{from} did not deliver: {why}")),
        _ => {}
    });
    bar.finish_and_clear();
    path
}
