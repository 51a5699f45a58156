//! `halfbyte generate`: continues a text.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt;
use futures::executor::block_on;
use halfbyte::backend::Profile;
use halfbyte::chat::{Message, RenderOptions};
use halfbyte::engine::{Engine, Facts, Finish, GenerateOptions, SamplerOptions, Timings, TokenStream};
use halfbyte::{Error, Result};

use super::interrupt::{self, Interrupt};
use super::model::ModelArgs;
use super::sampling::Sampling;
use super::template::TemplateArgs;
use super::{note, out, profile};

/// Continue a text
///
/// Only the continuation goes to standard output, as it comes. Without sampling options the most likely token is
/// taken every time, so that the same prompt gives the same text. With `--chat` the text is what a person says, and the
/// continuation is the answer.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte generate \"The first man on the moon was\"
  halfbyte generate -n 50 --temp 0.8 --seed 7 -f story.txt
  halfbyte generate --chat --system \"Answer in one word.\" \"What is the capital of France?\"
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

    /// Context window in tokens; 0 for what the model was trained for [default: that, but at most 4096]
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

    /// Take the text as what a person says, and answer it once
    #[arg(long)]
    chat: bool,

    #[command(flatten)]
    template: TemplateArgs,

    /// Accepted for llama.cpp's sake: text is continued as it is if nothing else is said
    #[arg(long, hide = true)]
    no_conversation: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: Sampling,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if !args.chat && args.template.is_given() {
        return Err(Error::Usage {
            what: "a text that is only continued has no rules and no template".into(),
            hint: "to have it answered, give `--chat`".into(),
        });
    }
    let prompt = args.read_prompt()?;
    let interrupt = Interrupt::install()?;
    let engine = args.model.load(args.n_ctx)?;
    let (tokens, stop) = args.to_tokens(&prompt, &engine)?;
    let options = GenerateOptions {
        sampler: args.sampling.options(false),
        max_tokens: usize::try_from(args.max_tokens).ok(),
        stop: [&args.stop[..], &stop].concat(),
    };
    let mut session = engine.session()?;
    let mut stream = session.generate(&tokens, options.clone());
    let mut answer = Answer::default();
    let result = answer.read(&mut stream, &interrupt, !args.json);
    // After Ctrl-C nobody waits for the step that is under way.
    stream.cancel();
    let profile = engine.profile();
    if args.json {
        out(answer.to_json(engine.facts(), &stream, &options.sampler, profile.as_ref()))?;
    } else if std::io::stdout().is_terminal() {
        out("\n")?;
    }
    if !args.json && stream.finish() == Some(Finish::ContextFull) {
        note("the context is full: the text was cut (`-c` sets its size)");
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
pub(super) fn statistics(facts: &Facts, timings: &Timings) -> String {
    let speed = |rate: Option<f64>| rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1} t/s"));
    let reused = if timings.n_reused > 0 { format!(", {} known", timings.n_reused) } else { String::new() };
    let memory = facts.memory.weights_bytes + facts.memory.kv_bytes + facts.memory.scratch_bytes;
    format!(
        "{} on {} · {} · load {:.2} s · pp {} ({} tokens{reused}) · tg {} ({} tokens)",
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
    /// The prompt in tokens, and texts before which an answer ends.
    fn to_tokens(&self, prompt: &str, engine: &Engine) -> Result<(Vec<u32>, Vec<String>)> {
        let tokenizer = engine.tokenizer();
        if !self.chat {
            return Ok((tokenizer.encode_prompt(prompt)?, Vec::new()));
        }
        let template = self.template.load(engine)?;
        let system = self.template.system().map(Message::system);
        let messages: Vec<Message> = system.into_iter().chain([Message::user(prompt)]).collect();
        let tokens = template.encode(&messages, &RenderOptions::default(), tokenizer.as_ref())?;
        Ok((tokens, template.stop().to_vec()))
    }

    fn read_prompt(&self) -> Result<String> {
        if let Some(path) = &self.file {
            return super::read_prompt(path);
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
                let text = String::from_utf8(bytes).map_err(|e| Error::Usage {
                    what: format!("standard input is not UTF-8 text: {}", e.utf8_error()),
                    hint: "a prompt in another encoding can be turned into UTF-8 by `iconv`".into(),
                })?;
                Ok(super::without_last_newline(text))
            }
        }
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}
