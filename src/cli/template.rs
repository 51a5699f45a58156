//! How a conversation is written: the file's own template, or the one that is asked for.

use std::path::Path;

use halfbyte::chat::{Builtin, Template};
use halfbyte::engine::Engine;
use halfbyte::{Error, Result};

/// Options about the form of a conversation.
#[derive(clap::Args)]
#[command(next_help_heading = "Conversation")]
pub(super) struct TemplateArgs {
    /// The rules of the conversation
    #[arg(long, value_name = "TEXT", visible_alias = "system-prompt", alias = "sys")]
    system: Option<String>,

    /// How conversations are written: a file with a Jinja template, or alpaca, chatml, gemma, llama2, llama3, mistral, vicuna,
    /// zephyr [default: the template in the model file]
    #[arg(long, value_name = "NAME|FILE", alias = "chat-template-file")]
    chat_template: Option<String>,
}

impl TemplateArgs {
    /// Whether anything was asked for.
    pub(super) fn is_given(&self) -> bool {
        self.system.is_some() || self.chat_template.is_some()
    }

    /// The rules of the conversation.
    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// The template that was asked for, else the file's own.
    ///
    /// # Errors
    /// If there is none, or it is wrong.
    pub(super) fn load(&self, engine: &Engine) -> Result<Template> {
        let tokenizer = engine.tokenizer().as_ref();
        let Some(name) = &self.chat_template else {
            let source = engine.facts().chat_template.as_deref();
            let what = || format!("{} has none", engine.facts().model);
            return Template::for_tokenizer(source.ok_or_else(|| Error::ChatTemplate { what: what() })?, tokenizer);
        };
        if let Some(builtin) = Builtin::by_name(name) {
            return Ok(Template::builtin(builtin, tokenizer));
        }
        let source = std::fs::read_to_string(name).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::ChatTemplate { what: format!("`{name}` is neither a file nor the name of one that is built in") }
            }
            _ => Error::Io { action: "read", path: Path::new(name).to_owned(), source },
        })?;
        Template::for_tokenizer(&source, tokenizer)
    }
}
