//! A conversation: messages that a template writes as text, and a session that answers them.
//!
//! Each turn is a prompt with all that was said before it. The session has most of that in its KV cache, as long as the
//! tokens are the same; so the last prompt and the answer to it stay the tokens that they were, and only what the template
//! puts behind them is encoded. Where it writes the past in another way (it leaves out what a model thought, it trims),
//! all is encoded again, and what still begins alike is found in the cache.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;

use super::{Engine, Finish, GenerateOptions, Session, Timings, Token, TokenStream};
use crate::chat::{Message, RenderOptions, Template, Written};
use crate::error::{Error, Result};

/// Messages, and a session of an engine for the answers.
pub struct Conversation {
    engine: Engine,
    session: Session,
    template: Template,
    options: RenderOptions,
    messages: Vec<Message>,
    /// The last prompt with the answer to it, and the tokens that the session knows it as.
    last: Option<Written>,
}

impl Conversation {
    /// Begins a conversation that `template` writes.
    ///
    /// # Errors
    /// If the engine has no session left.
    pub fn new(engine: &Engine, template: Template) -> Result<Self> {
        Ok(Self {
            engine: engine.clone(),
            session: engine.session()?,
            template,
            options: RenderOptions::default(),
            messages: Vec::new(),
            last: None,
        })
    }

    /// What the template is told besides the messages.
    pub fn options_mut(&mut self) -> &mut RenderOptions {
        &mut self.options
    }

    /// What was said.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The rules of the conversation, if it has any.
    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role == "system").map(|m| m.content.as_str())
    }

    /// Sets the rules of the conversation, from its first message on.
    pub fn set_system(&mut self, text: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, Message::system(text));
        }
    }

    /// Forgets everything but the rules.
    pub fn clear(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
    }

    /// Says `text`, and gives the answer as it comes. Where there is no room for both, the oldest messages are forgotten.
    ///
    /// # Errors
    /// If the template can't write these messages, or `text` alone is too long for the context ([`Error::ContextFull`]).
    /// The conversation is then as it was.
    pub fn say(&mut self, text: &str, mut options: GenerateOptions) -> Result<Answer<'_>> {
        let before = self.messages.clone();
        self.messages.push(Message::user(text));
        let prompt = match self.prompt(options.max_tokens) {
            Ok(prompt) => prompt,
            Err(error) => {
                self.messages = before;
                return Err(error);
            }
        };
        let n_forgotten = before.len() + 1 - self.messages.len();
        options.stop.extend_from_slice(self.template.stop());
        let stream = self.session.generate(&prompt.tokens, options);
        Ok(Answer { conversation: self, stream, prompt, text: String::new(), tokens: Vec::new(), n_forgotten })
    }

    /// The messages as a prompt that leaves room for an answer.
    fn prompt(&mut self, max_tokens: Option<usize>) -> Result<Written> {
        let n_ctx = self.engine.limits().n_ctx;
        // A quarter of the context, or what was asked for if that is less.
        let room = max_tokens.unwrap_or(usize::MAX).min(n_ctx / 4);
        let mut prompt = self.write()?;
        if prompt.tokens.len() + room > n_ctx {
            // Half of the context at once, so that the next turns find what is left in the cache.
            while prompt.tokens.len() > n_ctx / 2 && self.forget_oldest() {
                prompt = self.write()?;
            }
        }
        if prompt.tokens.len() >= n_ctx {
            return Err(Error::ContextFull { needed: prompt.tokens.len() + 1, n_ctx });
        }
        Ok(prompt)
    }

    fn write(&self) -> Result<Written> {
        self.template.write(&self.messages, &self.options, self.engine.tokenizer().as_ref(), self.last.as_ref())
    }

    /// Forgets the oldest message of a person and what was answered to it, but not the last. Whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let start = usize::from(self.system().is_some());
        let next = self.messages.iter().skip(start + 1).position(|m| m.role == "user");
        if let Some(n) = next {
            self.messages.drain(start..start + 1 + n);
        }
        next.is_some()
    }
}

/// An answer as it comes: a stream of tokens. When it is dropped, generation stops, and what came is part of the
/// conversation; if nothing came, what was said last is taken back.
pub struct Answer<'a> {
    conversation: &'a mut Conversation,
    stream: TokenStream,
    prompt: Written,
    text: String,
    tokens: Vec<u32>,
    n_forgotten: usize,
}

impl Answer<'_> {
    /// Why the answer is over; `None` while it is not, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.stream.finish()
    }

    /// How long it took, and what was in the KV cache.
    pub fn timings(&self) -> Timings {
        self.stream.timings()
    }

    /// Messages that were forgotten to make room.
    pub fn n_forgotten(&self) -> usize {
        self.n_forgotten
    }
}

impl Stream for Answer<'_> {
    type Item = Result<Token>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let poll = Pin::new(&mut self.stream).poll_next(context);
        if let Poll::Ready(Some(Ok(token))) = &poll {
            self.text += &token.text;
            self.tokens.push(token.id);
        }
        poll
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let Conversation { messages, last, .. } = &mut *self.conversation;
        if self.tokens.is_empty() {
            messages.pop();
            return;
        }
        messages.push(Message::answer(&self.text));
        // Of an answer that was cut somewhere, tokens and text need not be the same.
        *last = match self.stream.finish() {
            Some(Finish::EndOfText) => {
                self.tokens.pop();
                Some(Written {
                    text: std::mem::take(&mut self.prompt.text) + &self.text,
                    tokens: [&self.prompt.tokens[..], &self.tokens].concat(),
                })
            }
            _ => None,
        };
    }
}
