//! `halfbyte chat`: a conversation with a model, line by line.
//!
//! On a terminal lines can be edited and called back, and Ctrl-C ends an answer; from a pipe each line is a turn, so that a
//! script can hold a conversation. Both are the same loop over [`Input`]s.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use futures::executor::block_on;
use halfbyte::engine::{Conversation, Facts, Finish, GenerateOptions};
use halfbyte::{Error, Result};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};

use super::generate::statistics;
use super::interrupt::{self, Interrupt};
use super::model::ModelArgs;
use super::sampling::Sampling;
use super::template::TemplateArgs;
use super::{NAME, note, out, profile, report};

/// Talk with a model
///
/// Ctrl-C ends an answer, Ctrl-D leaves, `/help` lists commands. From a pipe each line is a turn, and only answers are
/// printed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  halfbyte chat
  halfbyte chat model.gguf --system \"You are a pirate.\"
  halfbyte chat hf:OWNER/REPO:Q4_K_M --temp 0
  halfbyte chat base.gguf --chat-template alpaca")]
pub(super) struct Args {
    /// The model, in place of `--model`
    #[arg(value_name = "MODEL")]
    name: Option<String>,

    /// Context window in tokens; 0 for what the model was trained for [default: that, but at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    n_ctx: Option<usize>,

    /// Most tokens of an answer; -1 for no bound but its end and the context window
    #[arg(short = 'n', long = "max-tokens", value_name = "N", visible_alias = "n-predict", alias = "predict")]
    #[arg(default_value_t = -1, allow_negative_numbers = true)]
    max_tokens: i64,

    /// Say after each answer how fast it came, and how much of the conversation was known already
    #[arg(long)]
    verbose: bool,

    /// End an answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    #[command(flatten)]
    template: TemplateArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: Sampling,
}

const HELP: &str = "\
/system TEXT   set the rules of the conversation; without TEXT, show them
/clear         forget what was said, but not the rules
/help          show this
/exit          leave; so does Ctrl-D
\"\"\"            begins and ends a message of several lines
Ctrl-C ends an answer.
";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let model = args.name.as_ref().map_or_else(|| args.model.clone(), |name| args.model.with_name(name));
    let engine = model.load(args.n_ctx)?;
    let mut conversation = Conversation::new(&engine, args.template.load(&engine)?)?;
    conversation.set_system(args.template.system());
    let options = GenerateOptions {
        sampler: args.sampling.options(true),
        max_tokens: usize::try_from(args.max_tokens).ok(),
        stop: args.stop.clone(),
    };
    let told = args.verbose.then(|| engine.facts());
    let mut lines = Lines::open()?;
    if lines.is_terminal() {
        out(greeting(engine.facts()))?;
    }
    while let Some(message) = lines.next_message()? {
        match Input::of(&message) {
            Input::Nothing => {}
            Input::Exit => break,
            Input::Help => out(HELP)?,
            Input::Clear => conversation.clear(),
            Input::System("") => out(format!("{}\n", conversation.system().unwrap_or("(there are none)")))?,
            Input::System(text) => conversation.set_system(Some(text)),
            Input::Unknown(command) => note(&format!("there is no command `{command}`; /help lists them")),
            Input::Message(text) => match turn(&mut conversation, text, options.clone(), &interrupt, told) {
                Ok(Turn::Interrupted) if !lines.is_terminal() => return Ok(ExitCode::from(interrupt::EXIT_CODE)),
                Ok(_) if lines.is_terminal() => out("\n")?,
                Ok(_) => {}
                Err(error) if lines.is_terminal() && can_go_on(&error) => {
                    report(&error);
                }
                Err(error) => return Err(error),
            },
        }
    }
    if let Some(profile) = engine.profile() {
        anstream::eprint!("\n{}", profile::to_table(&profile));
    }
    Ok(ExitCode::SUCCESS)
}

/// How a turn ended.
enum Turn {
    Whole,
    Interrupted,
}

/// Says something, and prints the answer as it comes; and how fast that was, if the facts that go with it are given.
fn turn(
    conversation: &mut Conversation,
    text: &str,
    options: GenerateOptions,
    interrupt: &Interrupt,
    told: Option<&Facts>,
) -> Result<Turn> {
    let mut answer = conversation.say(text, options)?;
    if answer.n_forgotten() > 0 {
        note(&format!("the context is full: the {} oldest messages are forgotten", answer.n_forgotten()));
    }
    let mut tokens = (&mut answer).take_until(interrupt.listen());
    while let Some(token) = block_on(tokens.next()) {
        out(token?.text)?;
    }
    out("\n")?;
    if let Some(facts) = told {
        anstream::eprintln!("{}", statistics(facts, &answer.timings()));
    }
    match answer.finish() {
        None => return Ok(Turn::Interrupted),
        Some(Finish::ContextFull) => note("the context is full: the answer was cut (`-c` sets its size)"),
        Some(Finish::MaxTokens) => note("the answer was cut (`-n` sets its length)"),
        Some(_) => {}
    }
    Ok(Turn::Whole)
}

/// Whether the next turn may go well.
fn can_go_on(error: &Error) -> bool {
    matches!(error, Error::ContextFull { .. } | Error::ChatTemplate { .. } | Error::Usage { .. } | Error::BadLogits)
}

fn greeting(facts: &Facts) -> String {
    format!("{} on {}. {NAME}/help{NAME:#} lists commands, {NAME}Ctrl-D{NAME:#} leaves.\n", facts.model, facts.device)
}

/// What a person typed.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Exit,
    Help,
    Clear,
    System(&'a str),
    Unknown(&'a str),
    Message(&'a str),
}

impl<'a> Input<'a> {
    /// A command is a slash and a word; what begins like a path is a message.
    fn of(text: &'a str) -> Self {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word {
            "/exit" | "/bye" | "/quit" => Input::Exit,
            "/help" | "/?" => Input::Help,
            "/clear" => Input::Clear,
            "/system" => Input::System(rest.trim()),
            _ if text.trim().is_empty() => Input::Nothing,
            _ => match word.strip_prefix('/') {
                Some(name) if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic()) => Input::Unknown(word),
                _ => Input::Message(text),
            },
        }
    }
}

/// What marks a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Where messages come from.
enum Lines {
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe(std::io::StdinLock<'static>),
}

impl Lines {
    fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Ok(Lines::Pipe(std::io::stdin().lock()));
        }
        let config = Config::builder().auto_add_history(true).build();
        let editor = Editor::with_history(config, MemHistory::new()).map_err(|error| unreadable(error.to_string()))?;
        Ok(Lines::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    /// The next message, of several lines if it begins with `"""`; `None` at the end.
    fn next_message(&mut self) -> Result<Option<String>> {
        let Some(line) = self.next_line(">>> ")? else { return Ok(None) };
        let Some(first) = line.trim_start().strip_prefix(QUOTES) else { return Ok(Some(line)) };
        let mut message = first.to_owned();
        while !message.trim_end().ends_with(QUOTES) {
            let Some(line) = self.next_line("... ")? else { return Ok(Some(message)) };
            message.push('\n');
            message += &line;
        }
        let len = message.trim_end().len() - QUOTES.len();
        message.truncate(len);
        Ok(Some(message))
    }

    fn next_line(&mut self, prompt: &str) -> Result<Option<String>> {
        match self {
            Lines::Terminal(editor) => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => note("Ctrl-D or /exit leaves"),
                    Err(error) => return Err(unreadable(error.to_string())),
                }
            },
            Lines::Pipe(stdin) => {
                let mut line = String::new();
                let path = Path::new("standard input");
                let n_bytes = stdin.read_line(&mut line).map_err(|source| Error::Io {
                    action: "read",
                    path: path.to_owned(),
                    source,
                })?;
                let end = line.trim_end_matches(['\n', '\r']).len();
                line.truncate(end);
                Ok((n_bytes > 0).then_some(line))
            }
        }
    }
}

fn unreadable(why: String) -> Error {
    Error::Usage { what: format!("cannot read from the terminal: {why}"), hint: String::new() }
}

#[cfg(test)]
mod tests {
    use super::Input;

    #[test]
    fn commands_are_told_from_messages() {
        assert_eq!(Input::of("/bye"), Input::Exit);
        assert_eq!(Input::of("/? x"), Input::Help);
        assert_eq!(Input::of("/clear "), Input::Clear);
        assert_eq!(Input::of("/system  You are\na pirate. "), Input::System("You are\na pirate."));
        assert_eq!(Input::of("/system"), Input::System(""));
        assert_eq!(Input::of("/sytsem x"), Input::Unknown("/sytsem"));
        assert_eq!(Input::of(" \t"), Input::Nothing);
        assert_eq!(Input::of(""), Input::Nothing);
        for message in ["hello", "/usr/bin is what?", "/", "// a comment", "what does /clear do?"] {
            assert_eq!(Input::of(message), Input::Message(message));
        }
    }
}
