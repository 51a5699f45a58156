//! `halfbyte bench`: how fast a model runs, in the numbers that llama-bench gives.

use std::fmt;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use halfbyte::Result;
use halfbyte::engine::measure::{Speed, Test, measure};
use halfbyte::engine::{EngineOptions, Facts, Loaded};
use serde_json::json;

use super::model::{ModelArgs, with_upload_bar};
use super::{out, profile};

/// Measure tokens per second
///
/// `pp512` is a prompt of 512 tokens, `tg128` are 128 tokens generated one by one; `@ d1024` behind 1024 tokens that are
/// in the context already; `× 8` by eight sequences at once, all their tokens counted. Each test is run once to warm up, then
/// as often as asked for: mean ± standard deviation.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte bench
  halfbyte bench -p 128,512 -n 32 -d 0,1024 -r 3 --device cpu -t 2 --json")]
pub(super) struct Args {
    /// Lengths of prompts; 0 for no such test
    #[arg(short = 'p', long = "n-prompt", value_name = "N,…", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,

    /// How many tokens to generate; 0 for no such test
    #[arg(short = 'n', long = "n-gen", value_name = "N,…", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,

    /// How many tokens are in the context before
    #[arg(short = 'd', long = "n-depth", value_name = "N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,

    /// How many sequences generate at once
    #[arg(short = 's', long = "n-seqs", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    n_seqs: u16,

    /// How often each test is run
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,

    /// Measure on a driver that computes nothing: what the host does is all that means something then
    #[arg(long, hide = true)]
    host_only: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// One row of the table.
struct Row {
    test: Test,
    depth: usize,
    n_seqs: u16,
    speed: Speed,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let tests = args.tests();
    let n_ctx = tests.iter().map(|(test, depth)| test.n_tokens() + depth).max().unwrap_or(0).max(2);
    let path = args.model.resolve()?;
    let options = EngineOptions {
        expect_results: !args.host_only,
        max_sessions: args.n_seqs.into(),
        ..args.model.options(Some(n_ctx))?
    };
    let Loaded { mut program, facts, .. } = with_upload_bar(|progress| Loaded::open(&path, &options, progress))?;
    let mut rows = Vec::new();
    for (test, depth) in tests {
        let speed = measure(&mut *program, test, depth, args.repetitions.into())?;
        rows.push(Row { test, depth, n_seqs: args.n_seqs, speed });
    }
    out(if args.json { to_json(&facts, &rows) } else { to_table(&facts, &rows) })?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// All tests at each depth.
    fn tests(&self) -> Vec<(Test, usize)> {
        let prompts = self.n_prompt.iter().map(|&n| Test::Prompt(n));
        let tests: Vec<Test> = prompts.chain(self.n_gen.iter().map(|&n| Test::Generate(n))).collect();
        let at = |&depth: &usize| tests.iter().filter(|t| t.n_tokens() > 0).map(move |&test| (test, depth));
        self.depth.iter().flat_map(at).collect()
    }
}

impl fmt::Display for Row {
    /// As llama-bench names tests: `pp512`, `tg128 @ d1024`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.test {
            Test::Prompt(n) => write!(f, "pp{n}")?,
            Test::Generate(n) if self.n_seqs == 1 => write!(f, "tg{n}")?,
            Test::Generate(n) => write!(f, "tg{n} × {}", self.n_seqs)?,
        }
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

fn to_table(facts: &Facts, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    // The CPU has no host.
    let has_host = rows.iter().any(|row| row.speed.host.is_some());
    let header = ["model", "device", "test", "t/s"].into_iter().chain(has_host.then_some("host ms a step"));
    table.set_header(header);
    for row in rows {
        let speed = format!("{:.2} ± {:.2}", row.speed.mean(), row.speed.stddev());
        let host = row.speed.host.map(|host| format!("{:.3}", 1e3 * host.as_secs_f64()));
        let cells = [facts.model.clone(), facts.device.clone(), row.to_string(), speed];
        table.add_row(cells.into_iter().chain(host));
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n");
    for row in rows {
        if let Some(profile) = &row.speed.profile {
            text += &format!("\n{row}: {}", profile::to_table(profile));
        }
    }
    text
}

fn to_json(facts: &Facts, rows: &[Row]) -> String {
    let results = rows.iter().map(|row| {
        let n = row.test.n_tokens();
        let (n_prompt, n_gen) = if matches!(row.test, Test::Prompt(_)) { (n, 0) } else { (0, n) };
        json!({
            "test": row.to_string(),
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "depth": row.depth,
            "n_seqs": row.n_seqs,
            "tokens_per_second": row.speed.mean(),
            "stddev": row.speed.stddev(),
            "samples": row.speed.samples,
            "host_seconds_per_step": row.speed.host.map(|host| host.as_secs_f64()),
            "profile": row.speed.profile.as_ref().map(profile::to_json),
        })
    });
    let json = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": facts.model,
        "architecture": facts.architecture,
        "device": facts.device,
        "threads": facts.threads,
        "memory": {
            "weights_bytes": facts.memory.weights_bytes,
            "kv_bytes": facts.memory.kv_bytes,
            "scratch_bytes": facts.memory.scratch_bytes,
        },
        "load_seconds": facts.load_time.as_secs_f64(),
        "results": results.collect::<Vec<_>>(),
    });
    format!("{json}\n")
}
