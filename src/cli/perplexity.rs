//! `halfbyte perplexity`: how well a model predicts a text, and how far it is from another one, in the numbers that
//! llama-perplexity gives.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use halfbyte::engine::{EngineOptions, Facts, Loaded, default_threads};
use halfbyte::eval::{self, Base, Divergence, Estimate, LogitsFile, LogitsWriter, Perplexity, Summary, Windows};
use halfbyte::{Error, Result};
use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::model::{RunArgs, note_long_context, with_upload_bar};
use super::{fetch, out, read_prompt};

/// Tokens in a window, as llama-perplexity has them.
const DEFAULT_N_CTX: usize = 512;

/// Measure how well a model predicts a text
///
/// The text is cut into windows, and the tokens of the second half of each are scored: what llama-perplexity does, so that its numbers
/// and its files of log-probabilities can be compared. With `--base` or `--kld`, the model's predictions are compared
/// with those of another model or of an earlier run: KL divergence, and how often both find the same token most likely.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte perplexity model.gguf wiki.test.raw --chunks 8
  halfbyte perplexity model-q4_0.gguf wiki.test.raw --base model-f16.gguf
  halfbyte perplexity model-f16.gguf wiki.test.raw --save-logits f16.kld
  halfbyte perplexity model-q4_0.gguf --kld f16.kld --json")]
pub(super) struct Args {
    /// A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(required_unless_present = "model_option")]
    model: Option<String>,

    /// The text, a file in UTF-8; with `--kld` it may be left out
    #[arg(value_name = "TEXT", required_unless_present_any = ["text_option", "kld"])]
    text: Option<PathBuf>,

    /// The model, as llama.cpp spells it
    #[arg(short, long = "model", value_name = "MODEL", conflicts_with = "model", hide = true)]
    model_option: Option<String>,

    /// The text, as llama.cpp spells it
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "text", hide = true)]
    text_option: Option<PathBuf>,

    /// Tokens in a window [default: 512, or those of the file of `--kld`]
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    n_ctx: Option<usize>,

    /// Most windows [default: the whole text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Compare with this model, which is run beside
    #[arg(long, value_name = "MODEL", conflicts_with = "kld")]
    base: Option<String>,

    /// Compare with the log-probabilities that an earlier run saved
    #[arg(long, value_name = "FILE", alias = "kl-divergence-base")]
    kld: Option<PathBuf>,

    /// Save log-probabilities, two bytes for each token of the vocabulary and each that is scored
    #[arg(long, value_name = "FILE", alias = "save-all-logits", conflicts_with_all = ["base", "kld"])]
    save_logits: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    run: RunArgs,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let text = args.text_path().map(|path| read_prompt(path)).transpose()?;
    let saved = args.kld.as_deref().map(LogitsFile::open).transpose()?;
    let n_ctx = args.window_len(saved.as_ref())?;
    // It listens to nothing: that there is one ends the process without half a file.
    let _interrupt = args.save_logits.as_ref().map(|_| Interrupt::install()).transpose()?;
    let options = eval::engine_options(n_ctx, args.run.options(None)?)?;
    let name = args.model.as_ref().or(args.model_option.as_ref()).expect("clap has one of both");
    let model = open(name, &options)?;
    note_long_context(&model.facts);
    let windows = args.windows(&model, text.as_deref(), saved.as_ref(), n_ctx)?;
    let mut run = Run { args, n_threads: model.facts.threads.unwrap_or_else(default_threads), model, windows };
    let (report, time) = match (saved, &args.base) {
        (Some(mut saved), _) => run.divergence(&mut Base::File(&mut saved))?,
        (None, Some(base)) => {
            let mut base = open(base, &options)?;
            run.check_vocabulary(&base, text.as_deref())?;
            run.divergence(&mut Base::Program(&mut *base.program))?
        }
        (None, None) => run.perplexity()?,
    };
    out(run.to_text(&report, time))?;
    Ok(ExitCode::SUCCESS)
}

/// A model by its name.
fn open(name: &str, options: &EngineOptions) -> Result<Loaded> {
    let path = fetch::model(name)?;
    with_upload_bar(|progress| Loaded::open(&path, options, progress))
}

impl Args {
    fn text_path(&self) -> Option<&PathBuf> {
        self.text.as_ref().or(self.text_option.as_ref())
    }

    fn window_len(&self, saved: Option<&LogitsFile>) -> Result<usize> {
        match (saved.map(LogitsFile::n_ctx), self.n_ctx) {
            (Some(of_file), Some(asked)) if of_file != asked => Err(Error::Usage {
                what: format!("windows of {asked} tokens, but the file of log-probabilities has windows of {of_file}"),
                hint: "leave out `-c`".into(),
            }),
            (of_file, asked) => Ok(of_file.or(asked).unwrap_or(DEFAULT_N_CTX)),
        }
    }

    fn windows(&self, model: &Loaded, text: Option<&str>, saved: Option<&LogitsFile>, n_ctx: usize) -> Result<Windows> {
        let most = self.chunks.map(|n| n as usize);
        let of_text = |text: &str| Windows::of_text(&*model.tokenizer, text, n_ctx, most);
        let Some(saved) = saved else { return of_text(text.unwrap_or_default()) };
        let windows = saved.windows(&*model.tokenizer, model.program.graph().n_vocab, most)?;
        if let Some(text) = text {
            saved.check_text(&of_text(text)?)?;
        }
        Ok(windows)
    }
}

/// What was found.
enum Report {
    Perplexity(Perplexity),
    Summary(Box<Summary>),
}

/// A model at work on windows.
struct Run<'a> {
    args: &'a Args,
    n_threads: usize,
    model: Loaded,
    windows: Windows,
}

impl Run<'_> {
    fn perplexity(&mut self) -> Result<(Report, Duration)> {
        let Self { args, n_threads, model, windows } = self;
        let n_vocab = model.program.graph().n_vocab;
        let inputs = model.facts.files.iter().chain(args.text_path()).map(PathBuf::as_path);
        let create = |path: &PathBuf| LogitsWriter::create(path, inputs, windows, n_vocab);
        let mut save = args.save_logits.as_ref().map(create).transpose()?;
        let mut shown = Shown::new(args, windows);
        let start = Instant::now();
        let mut progress =
            |scores: &[f64]| shown.show(scores.len(), |n| format!("{:.4}", Perplexity::of(&scores[..n]).value));
        let scores = eval::perplexity(&mut *model.program, windows, *n_threads, save.as_mut(), &mut progress)?;
        save.map(LogitsWriter::finish).transpose()?;
        shown.finish()?;
        Ok((Report::Perplexity(Perplexity::of(&scores)), start.elapsed()))
    }

    fn divergence(&mut self, base: &mut Base<'_>) -> Result<(Report, Duration)> {
        let Self { args, n_threads, model, windows } = self;
        let mut shown = Shown::new(args, windows);
        let start = Instant::now();
        let mut progress = |tokens: &[Divergence]| {
            shown.show(tokens.len(), |n| small(Estimate::of(tokens[..n].iter().map(|token| token.kld)).mean));
        };
        let tokens = eval::divergence(&mut *model.program, windows, *n_threads, base, &mut progress)?;
        shown.finish()?;
        Ok((Report::Summary(Box::new(Summary::of(&tokens))), start.elapsed()))
    }

    /// That the base has the model's tokens.
    fn check_vocabulary(&self, base: &Loaded, text: Option<&str>) -> Result<()> {
        let sizes = [&self.model, base].map(|model| model.program.graph().n_vocab);
        let most = Some(self.windows.len());
        let windows = Windows::of_text(&*base.tokenizer, text.unwrap_or_default(), self.windows.n_ctx(), most);
        if sizes[0] == sizes[1] && windows.is_ok_and(|windows| windows == self.windows) {
            return Ok(());
        }
        Err(Error::Usage {
            what: format!("{} and {} have different vocabularies", self.model.facts.model, base.facts.model),
            hint: "compare models that have the same tokens".into(),
        })
    }

    fn to_text(&self, report: &Report, time: Duration) -> String {
        let n_tokens = self.windows.tokens().len();
        let n_scored = self.windows.len() * self.windows.n_scored();
        let speed = n_tokens as f64 / time.as_secs_f64();
        if self.args.json {
            return self.to_json(report, n_scored, time);
        }
        let facts = &self.model.facts;
        let (n_windows, n_ctx) = (self.windows.len(), self.windows.n_ctx());
        let figures = match report {
            Report::Perplexity(perplexity) => format!("PPL = {perplexity}\n"),
            Report::Summary(summary) => summary_to_text(summary),
        };
        format!(
            "{figures}\n{} on {}: {n_windows} windows of {n_ctx} tokens, {n_scored} scored, {:.1} s, {speed:.0} t/s\n",
            facts.model,
            facts.device,
            time.as_secs_f64()
        )
    }

    fn to_json(&self, report: &Report, n_scored: usize, time: Duration) -> String {
        let Facts { model, architecture, device, threads, load_time, .. } = &self.model.facts;
        let mut json = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model,
            "architecture": architecture,
            "device": device,
            "threads": threads,
            "n_ctx": self.windows.n_ctx(),
            "n_windows": self.windows.len(),
            "n_scored": n_scored,
            "load_seconds": load_time.as_secs_f64(),
            "seconds": time.as_secs_f64(),
            "tokens_per_second": self.windows.tokens().len() as f64 / time.as_secs_f64(),
        });
        match report {
            Report::Perplexity(perplexity) => json["perplexity"] = perplexity_to_json(perplexity),
            Report::Summary(summary) => {
                json["perplexity"] = perplexity_to_json(&summary.perplexity);
                json["base_perplexity"] = perplexity_to_json(&summary.base_perplexity);
                json["perplexity_ratio"] = estimate_to_json(&summary.ratio);
                json["kld"] = estimate_to_json(&summary.kld);
                json["median_kld"] = summary.median_kld.into();
                json["p99_kld"] = summary.p99_kld.into();
                json["max_kld"] = summary.max_kld.into();
                json["same_top"] = estimate_to_json(&summary.same_top);
                json["rms_dp"] = estimate_to_json(&summary.rms_dp);
            }
        }
        format!("{json}\n")
    }
}

fn perplexity_to_json(perplexity: &Perplexity) -> Value {
    json!({ "value": perplexity.value, "error": perplexity.error })
}

fn estimate_to_json(estimate: &Estimate) -> Value {
    json!({ "value": estimate.mean, "error": estimate.error })
}

fn summary_to_text(summary: &Summary) -> String {
    let percent = |x: &Estimate| format!("{:.3} ± {:.3} %", 100.0 * x.mean, 100.0 * x.error);
    let Summary { perplexity, base_perplexity, ratio, kld, median_kld, p99_kld, max_kld, same_top, rms_dp } = summary;
    format!(
        "PPL             = {perplexity}\n\
         PPL of the base = {base_perplexity}\n\
         ratio           = {:.5} ± {:.5}\n\
         KL divergence   = {} ± {} (median {}, 99 % {}, largest {})\n\
         same top token  = {}\n\
         RMS Δp          = {}\n",
        ratio.mean,
        ratio.error,
        small(kld.mean),
        small(kld.error),
        small(*median_kld),
        small(*p99_kld),
        small(*max_kld),
        percent(same_top),
        percent(rms_dp),
    )
}

/// A number that may be near 0, with four digits or so.
fn small(x: f64) -> String {
    if x == 0.0 || x >= 1e-3 { format!("{x:.5}") } else { format!("{x:.2e}") }
}

/// The running value after each window, the perplexity or the KL divergence, as llama-perplexity shows it: `[1]16.4499,[2]17.8328,`
struct Shown {
    wanted: bool,
    n_scored: usize,
    n_shown: usize,
    result: Result<()>,
}

impl Shown {
    fn new(args: &Args, windows: &Windows) -> Self {
        Self { wanted: !args.json, n_scored: windows.n_scored(), n_shown: 0, result: Ok(()) }
    }

    /// Shows the windows that are complete with `n_scores`; `value` gives the value of the first so many scores.
    fn show(&mut self, n_scores: usize, value: impl Fn(usize) -> String) {
        while self.wanted && self.result.is_ok() && (self.n_shown + 1) * self.n_scored <= n_scores {
            self.n_shown += 1;
            self.result = out(format_args!("[{}]{},", self.n_shown, value(self.n_shown * self.n_scored)));
        }
    }

    /// Ends the line.
    ///
    /// # Errors
    /// If standard output was closed meanwhile.
    fn finish(self) -> Result<()> {
        self.result?;
        if self.wanted { out("\n") } else { Ok(()) }
    }
}
