//! A chat template, ready to write conversations.

use jiff::civil::DateTime;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde_json::{Map, Value as Json};

use super::rewrite::rewrite;
use super::{Builtin, Message, python};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The name under which the environment knows the template; it shows in no message.
const NAME: &str = "chat";

/// A template, with the names of the tokens that it puts around a text.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    stop: Vec<String>,
}

/// What to write besides the messages.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// Whether the text ends where an answer begins.
    pub add_generation_prompt: bool,
    /// Tools that the model may call, as OpenAI's API describes them.
    pub tools: Vec<Json>,
    /// Whatever else the template asks for: `enable_thinking`.
    pub variables: Map<String, Json>,
    /// The time that the template is told; the local time if not given.
    pub now: Option<DateTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, tools: Vec::new(), variables: Map::new(), now: None }
    }
}

impl Template {
    /// Compiles the Jinja text `source`, which calls the tokens that begin and end a text `bos` and `eos`.
    ///
    /// # Errors
    /// If it is no Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = python::environment();
        environment.add_template_owned(NAME, rewrite(source)).map_err(|e| failed(&e))?;
        Ok(Self { environment, bos: bos.into(), eos: eos.into(), stop: Vec::new() })
    }

    /// Compiles `source` for a vocabulary.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn for_tokenizer(source: &str, tokenizer: &dyn Tokenizer) -> Result<Self> {
        let name = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
        let special = tokenizer.special();
        Self::new(source, name(special.bos), name(special.eos))
    }

    /// One of our own for a vocabulary. The texts that end its turns become stop strings where they are no tokens.
    pub fn builtin(builtin: &Builtin, tokenizer: &dyn Tokenizer) -> Self {
        let mut template = Self::for_tokenizer(builtin.source, tokenizer).expect("our templates are right");
        let is_text = |stop: &&&str| tokenizer.token_id(stop).is_none_or(|id| !tokenizer.is_eog(id));
        template.stop = builtin.stop.iter().filter(is_text).map(ToString::to_string).collect();
        template
    }

    /// Texts that end a turn and are no tokens of the vocabulary.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The conversation as the model reads it. The names of special tokens in it are to be parsed.
    ///
    /// # Errors
    /// If the template can't write these messages: it says so itself (no system message, a wrong order of roles), or fails.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let now = options.now.unwrap_or_else(|| jiff::ZonedDateTime::now().datetime());
        let tools = (!options.tools.is_empty()).then(|| Value::from(Serde(&options.tools)));
        let variables = Value::from(Serde(&options.variables));
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools,
            documents => (),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            strftime_now => python::strftime_now(now),
            ..variables
        };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(|e| failed(&e))
    }
}

/// What the template said itself, or what went wrong and where.
fn failed(error: &minijinja::Error) -> Error {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    let what = causes.find_map(|e| e.downcast_ref::<python::Raised>()).map_or_else(
        || {
            let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
            let line = error.line().map(|n| format!("line {n}: ")).unwrap_or_default();
            format!("{line}{}{detail}", error.kind())
        },
        |raised| raised.0.clone(),
    );
    Error::ChatTemplate { what }
}
