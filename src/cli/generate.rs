//! `halfbyte generate`: continues a text.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt;
use futures::executor::block_on;
use halfbyte::backend::Profile;
use halfbyte::engine::{Engine, Facts, Finish, GenerateOptions, SamplerOptions, Timings, TokenStream};
use halfbyte::{Error, Result};

use super::interrupt::{self, Interrupt};
use super::model::{ModelArgs, with_upload_bar};
use super::{number_within, out, profile};

/// Continue a text
///
/// Only the continuation goes to standard output, as it comes. Without sampling options the most likely token is
/// taken every time, so that the same prompt gives the same text.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte generate \"The first man on the moon was\"
  halfbyte generate -n 50 --temp 0.8 --seed 7 -f story.txt
  echo \"Roses are red,\" | halfbyte generate -m hf:OWNER/REPO:Q4_K_M")]
pub(super) struct Args {
    /// The text to continue; `-` or none reads standard input
    prompt: Option<String>,

    /// The text to continue, as llama.cpp spells it
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", conflicts_with = "prompt", hide = true)]
    prompt_option: Option<String>,

    /// Read the text to continue from a file
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_option"])]
    file: Option<PathBuf>,

    /// Context window in tokens [default: what the model was trained for, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    n_ctx: Option<usize>,

    /// Most tokens to generate; -1 for no bound but the end of the text and the context window
    #[arg(short = 'n', long = "max-tokens", value_name = "N", visible_alias = "n-predict", alias = "predict")]
    #[arg(default_value_t = 256, allow_negative_numbers = true)]
    max_tokens: i64,

    /// Stop before this text would be printed; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Print one JSON object at the end, and nothing else
    #[arg(long)]
    json: bool,

    /// Accepted for llama.cpp's sake: text is always continued as it is
    #[arg(long, hide = true)]
    no_conversation: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: Sampling,
}

/// How the next token is drawn.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct Sampling {
    /// Randomness; 0 takes the most likely token [default: 0, or 0.8 with another sampling option]
    #[arg(long, value_name = "T", visible_alias = "temperature", value_parser = number_within(0.0, f32::MAX))]
    temp: Option<f32>,

    /// Draw from the K most likely tokens; 0 for all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw from the fewest tokens that have probability P together; 1 for all [default: 0.95]
    #[arg(long, value_name = "P", value_parser = number_within(0.0, 1.0))]
    top_p: Option<f32>,

    /// Drop tokens less than P times as likely as the most likely one; 0 for none [default: 0.05]
    #[arg(long, value_name = "P", value_parser = number_within(0.0, 1.0))]
    min_p: Option<f32>,

    /// Make tokens that were there less likely; 1 for not at all
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number_within(0.01, f32::MAX))]
    repeat_penalty: f32,

    /// How many of the last tokens count as having been there; -1 for all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    repeat_last_n: i64,

    /// Subtract X from the logits of tokens that were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Subtract X from the logits of tokens for each time that they were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Start of the random numbers: the same seed draws the same tokens [default: another one each time]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
}

/// llama.cpp's defaults, once anything is drawn at all.
const DRAWN: SamplerOptions = SamplerOptions {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
    repeat_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    penalty_last_n: 64,
    seed: 0,
};

impl Sampling {
    fn options(&self) -> SamplerOptions {
        let penalties = SamplerOptions {
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            ..SamplerOptions::default()
        };
        let asked = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.seed.is_some();
        match self.temp {
            Some(0.0) => penalties,
            None if !asked => penalties,
            temp => SamplerOptions {
                temperature: temp.unwrap_or(DRAWN.temperature),
                top_k: self.top_k.unwrap_or(DRAWN.top_k),
                top_p: self.top_p.unwrap_or(DRAWN.top_p),
                min_p: self.min_p.unwrap_or(DRAWN.min_p),
                seed: self.seed.and_then(|seed| u64::try_from(seed).ok()).unwrap_or_else(any_seed),
                ..penalties
            },
        }
    }
}

/// Another number each time.
fn any_seed() -> u64 {
    // 32 bits are enough, and can be typed in again.
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ()) >> 32
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let prompt = args.read_prompt()?;
    let interrupt = Interrupt::install()?;
    let path = args.model.resolve()?;
    let engine_options = args.model.options(args.n_ctx)?;
    let engine = with_upload_bar(|progress| Engine::load_with(&path, &engine_options, progress))?;
    if engine.facts().choice.noteworthy {
        super::note(&format!("runs on {} (`--device gpu` takes it)", engine.facts().choice.reason));
    }
    let tokens = engine.tokenizer().encode_prompt(&prompt)?;
    let options = GenerateOptions {
        sampler: args.sampling.options(),
        max_tokens: usize::try_from(args.max_tokens).ok(),
        stop: args.stop.clone(),
    };
    let mut session = engine.session()?;
    let mut stream = session.generate(&tokens, options.clone());
    let mut answer = Answer::default();
    let result = answer.read(&mut stream, &interrupt, !args.json);
    let profile = engine.profile();
    if args.json {
        out(answer.to_json(engine.facts(), &stream, &options.sampler, profile.as_ref()))?;
    } else if std::io::stdout().is_terminal() {
        out("\n")?;
    }
    if std::io::stderr().is_terminal() {
        anstream::eprintln!("{}", statistics(engine.facts(), &stream.timings()));
    }
    if let Some(profile) = profile.filter(|_| !args.json) {
        anstream::eprint!("\n{}", profile::to_table(&profile));
    }
    result?;
    Ok(if stream.finish().is_some() { ExitCode::SUCCESS } else { ExitCode::from(interrupt::EXIT_CODE) })
}

/// What was generated.
#[derive(Default)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
}

impl Answer {
    /// Reads the stream to its end or to the first Ctrl-C, showing the text as it comes.
    fn read(&mut self, stream: &mut TokenStream, interrupt: &Interrupt, show: bool) -> Result<()> {
        let mut stream = stream.take_until(interrupt.listen());
        while let Some(token) = block_on(stream.next()) {
            let token = token?;
            self.tokens.push(token.id);
            self.text += &token.text;
            if show && !token.text.is_empty() {
                out(&token.text)?;
            }
        }
        Ok(())
    }

    fn to_json(
        &self,
        facts: &Facts,
        stream: &TokenStream,
        sampler: &SamplerOptions,
        profile: Option<&Profile>,
    ) -> String {
        let timings = stream.timings();
        let mut json = serde_json::json!({
            "model": facts.model,
            "device": facts.device,
            "threads": facts.threads,
            "n_ctx": facts.n_ctx,
            "text": self.text,
            "tokens": self.tokens,
            "finish": stream.finish().map_or("interrupted", Finish::as_str),
            "seed": (sampler.temperature > 0.0).then_some(sampler.seed),
            "n_prompt": timings.n_prompt,
            "n_generated": timings.n_generated,
            "load_seconds": facts.load_time.as_secs_f64(),
            "prompt_seconds": timings.prompt.as_secs_f64(),
            "decode_seconds": timings.decode.as_secs_f64(),
            "prompt_tokens_per_second": timings.prompt_per_second(),
            "decode_tokens_per_second": timings.decode_per_second(),
        });
        if let Some(profile) = profile {
            json["profile"] = profile::to_json(profile);
        }
        format!("{json}\n")
    }
}

/// One line: model, device, memory, and how fast it was.
fn statistics(facts: &Facts, timings: &Timings) -> String {
    let speed = |rate: Option<f64>| rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1} t/s"));
    let memory = facts.memory.weights_bytes + facts.memory.kv_bytes + facts.memory.scratch_bytes;
    format!(
        "{} on {} · {} · load {:.2} s · pp {} ({} tokens) · tg {} ({} tokens)",
        facts.model,
        facts.device,
        indicatif::HumanBytes(memory),
        facts.load_time.as_secs_f64(),
        speed(timings.prompt_per_second()),
        timings.n_prompt,
        speed(timings.decode_per_second()),
        timings.n_generated,
    )
}

impl Args {
    fn read_prompt(&self) -> Result<String> {
        if let Some(path) = &self.file {
            let bytes = std::fs::read(path).map_err(|e| io("read", path, e))?;
            return utf8(bytes, &path.display().to_string());
        }
        match self.prompt.as_ref().or(self.prompt_option.as_ref()) {
            Some(prompt) if prompt != "-" => Ok(prompt.clone()),
            None if std::io::stdin().is_terminal() => Err(Error::Usage {
                what: "there is no text to continue".into(),
                hint: "halfbyte generate \"The first man on the moon was\"".into(),
            }),
            _ => {
                let mut bytes = Vec::new();
                let path = Path::new("standard input");
                std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| io("read", path, e))?;
                utf8(bytes, "standard input")
            }
        }
    }
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::Usage {
        what: format!("{name} is not UTF-8 text: {}", e.utf8_error()),
        hint: String::new(),
    })
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}
