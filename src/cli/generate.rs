//! `halfbyte generate`: continues a text.
#![allow(dead_code, reason = "the engine comes next")]

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::number_within;
use halfbyte::{Error, Result};

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

    /// Most tokens to generate [default: until the model ends the text, or the context is full]
    #[arg(short = 'n', long = "max-tokens", value_name = "N", visible_alias = "n-predict", alias = "predict")]
    #[arg(allow_negative_numbers = true)]
    max_tokens: Option<i64>,

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
    #[arg(short, long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let prompt = args.read_prompt()?;
    if prompt.is_empty() {
        return Err(Error::Usage { what: "the text to continue is empty".into(), hint: String::new() });
    }
    Ok(ExitCode::SUCCESS)
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
