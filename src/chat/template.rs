//! A chat template, ready to write conversations.

use jiff::civil::DateTime;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde_json::{Map, Value as Json};

use super::rewrite::rewrite;
use super::{Builtin, Message, guard, python};
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

    /// The conversation as the model reads it. The names of special tokens in it are to be parsed, also where they are in
    /// messages: [`Template::encode`] knows them apart.
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

    /// The conversation in tokens, with BOS in front where the file wants it. What messages say is text: names of control
    /// tokens in them stay that.
    ///
    /// # Errors
    /// As [`Template::render`], and if the text is longer than 1 GiB.
    pub fn encode(&self, messages: &[Message], options: &RenderOptions, tokenizer: &dyn Tokenizer) -> Result<Vec<u32>> {
        Ok(self.write(messages, options, tokenizer, None)?.tokens)
    }

    /// As [`Template::encode`], with the text. Where that goes on from `last`, so do the tokens.
    pub(crate) fn write(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        tokenizer: &dyn Tokenizer,
        last: Option<&Written>,
    ) -> Result<Written> {
        let text = self.render(&guard::mark(messages, tokenizer), options)?;
        if let Some(last) = last
            && let Some(rest) = text.strip_prefix(&last.text)
        {
            let rest = guard::encode(rest, tokenizer)?;
            // Behind a control token the parts of a text are encoded as they are in the whole.
            if rest.first().is_some_and(|&id| tokenizer.is_control(id)) {
                return Ok(Written { tokens: [&last.tokens[..], &rest].concat(), text });
            }
        }
        let tokens = tokenizer.with_bos(guard::encode(&text, tokenizer)?);
        Ok(Written { text, tokens })
    }
}

/// What a template wrote, and the tokens that it is.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
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
