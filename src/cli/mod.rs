//! Commands: one file each, with its `Args` and its `run`. Here is what they share: how a command is found, how an
//! error is shown, and how text gets to standard output.
//!
//! To add a command: a file, a variant of [`Command`], and a line in its `match`.

mod bench;
mod chat;
mod compare;
mod convert;
mod devices;
mod fetch;
mod generate;
mod imatrix;
mod inspect;
mod interrupt;
mod kernels;
mod making;
mod model;
mod perplexity;
mod profile;
mod pull;
mod quantize;
mod sampling;
mod template;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{Parser, Subcommand};
use halfbyte::{Error, Result};

/// 4-bit language models on any GPU
#[derive(Parser)]
#[command(name = "halfbyte", version, styles = STYLES, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "Use `halfbyte COMMAND --help` for the options of a command.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Bench(bench::Args),
    Compare(compare::Args),
    Convert(convert::Args),
    Devices(devices::Args),
    Imatrix(imatrix::Args),
    Inspect(inspect::Args),
    Kernels(kernels::Args),
    Perplexity(perplexity::Args),
    Pull(pull::Args),
    Quantize(quantize::Args),
}

const HEADING: Style = AnsiColor::Green.on_default().bold();
const NAME: Style = AnsiColor::Cyan.on_default().bold();
const VALUE: Style = AnsiColor::Cyan.on_default();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const STYLES: Styles =
    Styles::styled().header(HEADING).usage(HEADING).literal(NAME).placeholder(VALUE).error(ERROR).valid(VALUE);

/// Parses the command line, runs the command, and turns what came of it into an exit code: 0 for done, 1 for an error,
/// 2 for a wrong command line, 130 for an interrupt.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse_from(std::env::args_os().map(long_spelling)).command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Quantize(args) => quantize::run(&args),
    };
    result.unwrap_or_else(|error| report(&error))
}

/// llama.cpp has options of several letters behind a single dash, which clap would read as several options.
fn long_spelling(arg: std::ffi::OsString) -> std::ffi::OsString {
    if arg == "-no-cnv" { "--no-conversation".into() } else { arg }
}

/// Shows an error and what can be done about it. Nobody reads a closed pipe: that is not an error.
fn report(error: &Error) -> ExitCode {
    if let Error::Io { source, .. } = error
        && source.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    if matches!(error, Error::Interrupted) {
        return ExitCode::from(interrupt::EXIT_CODE);
    }
    anstream::eprintln!("{ERROR}error{ERROR:#}: {}", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        anstream::eprintln!("{NAME}hint{NAME:#}: {}", printable(&hint));
    }
    ExitCode::from(if matches!(error, Error::Usage { .. }) { 2 } else { 1 })
}

/// The text without what a terminal would obey: errors quote files, and files come from strangers.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Says something that people should know, on standard error.
fn note(text: &str) {
    anstream::eprintln!("{NAME}note{NAME:#}: {text}");
}

/// The text in a file.
///
/// # Errors
/// If it can't be read, or is no UTF-8.
fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })
}

/// Writes to standard output, at once.
///
/// # Errors
/// If it is closed or full.
fn out(text: impl std::fmt::Display) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|source| Error::Io {
        action: "write",
        path: "standard output".into(),
        source,
    })
}

/// Whether a value parses as a number within `min ..= max`; for clap.
fn number_within(min: f32, max: f32) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<f32>() {
        Ok(n) if n >= min && n <= max => Ok(n),
        Ok(n) if max == f32::MAX => Err(format!("{n} is not at least {min}")),
        Ok(n) => Err(format!("{n} is not within {min} to {max}")),
        Err(e) => Err(e.to_string()),
    }
}
