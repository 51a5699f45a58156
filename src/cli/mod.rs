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

use std::ffi::OsString;
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
    silence_wayland();
    interrupt::outlive_large_files();
    let result = match Cli::parse_from(long_spellings(std::env::args_os())).command {
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

/// A layer of Mesa that sorts devices asks a Wayland server which one it shows on, and where there can be none, the server's library
/// complains on standard error. Devices are sorted here, too.
#[cfg(target_os = "linux")]
fn silence_wayland() {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("XDG_RUNTIME_DIR") && !is_set("MESA_VK_DEVICE_SELECT") {
        // SAFETY: there is no other thread yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// There is no such layer.
#[cfg(not(target_os = "linux"))]
fn silence_wayland() {}

/// Options of llama.cpp that have several letters behind a single dash, which clap would read as several options.
const SPELLINGS: &[(&str, &str)] = &[
    ("-no-cnv", "--no-conversation"),
    ("-ngl", "--n-gpu-layers"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-sys", "--system"),
];

/// The command line with [`SPELLINGS`] as they are spelled here. What comes after `--` is no option.
fn long_spellings(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options_end = false;
    let long = |arg: OsString| {
        options_end |= arg == "--";
        let spelling = SPELLINGS.iter().find(|(short, _)| !options_end && arg == *short);
        spelling.map_or(arg, |(_, long)| (*long).into())
    };
    args.map(long).collect()
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

/// A file without the newline that ends it, as llama.cpp reads prompts.
///
/// # Errors
/// As [`read_text`].
fn read_prompt(path: &Path) -> Result<String> {
    read_text(path).map(without_last_newline)
}

/// What files and pipes have at their end, and nobody means.
fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
    }
    text
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
        Ok(n) if !n.is_finite() => Err(format!("{n} is not a finite number")),
        Ok(n) if max == f32::MAX => Err(format!("{n} is not at least {min}")),
        Ok(n) => Err(format!("{n} is not within {min} to {max}")),
        Err(e) => Err(e.to_string()),
    }
}

/// A number of threads; 0 for as many as are best, which is what llama.cpp says with any number below 1. For clap.
fn n_threads(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n) if n > i64::from(u16::MAX) => Err(format!("{n} is more than {}", u16::MAX)),
        Ok(n) => Ok(usize::try_from(n).unwrap_or(0)),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_spelled_as_in_llama_cpp() {
        let spelled = |args: &[&str]| long_spellings(args.iter().map(OsString::from));
        assert_eq!(
            spelled(&["-ngl", "99", "-ctk", "q8_0", "-c", "0"]),
            ["--n-gpu-layers", "99", "--cache-type-k", "q8_0", "-c", "0"]
        );
        assert_eq!(spelled(&["-n", "-1", "--", "-ngl"]), ["-n", "-1", "--", "-ngl"]);
    }

    #[test]
    fn numbers_are_within_their_bounds() {
        let within = |text| number_within(0.0, f32::MAX)(text);
        assert_eq!(within("0.5"), Ok(0.5));
        assert_eq!(within("nan").expect_err("out of range"), "NaN is not a finite number");
        assert_eq!(within("inf").expect_err("out of range"), "inf is not a finite number");
        assert_eq!(within("-1").expect_err("out of range"), "-1 is not at least 0");
        assert_eq!(["8", "0", "-1"].map(n_threads), [Ok(8), Ok(0), Ok(0)]);
        assert_eq!(n_threads("99999").expect_err("out of range"), "99999 is more than 65535");
    }
}
