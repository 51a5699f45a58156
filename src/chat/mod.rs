//! Conversations as text: messages, and the templates that write them the way a model was trained to read them.
//!
//! A template is a small Jinja program that comes with the model file, or one of ours for files that have none. It was
//! written for Python's Jinja2, so that what matters here is to behave like that: `python` has what a template may call,
//! `json` writes as Python's `json.dumps` does, `rewrite` has what else is different. `guard` keeps what people write from
//! steering the model.

mod builtin;
mod guard;
mod json;
mod python;
mod rewrite;
mod template;

use serde::{Deserialize, Serialize};

pub use builtin::{BUILTIN, Builtin};
pub(crate) use template::Written;
pub use template::{RenderOptions, Template};

/// One message of a conversation, in the form that OpenAI's API and all templates know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Whatever else a template may look at: `tool_calls`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message with nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), rest: serde_json::Map::new() }
    }

    /// What the rules of the conversation are.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What a person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model answers.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// What the model answered, as it came. Of an answer in channels (gpt-oss) the last message counts: templates write no
    /// more than that, and refuse the rest.
    pub(crate) fn answer(text: &str) -> Self {
        let start = text.find("<|channel|>").and(text.rfind("<|message|>")).map_or(0, |at| at + "<|message|>".len());
        Self::assistant(&text[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn of_an_answer_in_channels_the_last_message_counts() {
        let text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.";
        assert_eq!(Message::answer(text), Message::assistant("Yes."));
        assert_eq!(Message::answer("a <|message|> b"), Message::assistant("a <|message|> b"));
    }
}
