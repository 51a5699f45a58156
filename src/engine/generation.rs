//! One answer: from the tokens that the worker finds to the stream that a caller reads.
//!
//! A stream gets one [`Update`] per token. Text comes in complete characters, and held back while it may be the start
//! of a stop string; since the worker knows which token is the last, that one carries what was still held.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::channel::mpsc;

use super::sampler::{Sampler, SamplerOptions};
use super::stop::{Cut, StopFilter};
use super::worker::Status;
use crate::backend::Draw;
use crate::error::{Error, Result};
use crate::tokenizer::{Detokenizer, Tokenizer};

/// Tokens that may wait to be read before generation pauses.
pub(super) const CHANNEL_LEN: usize = 16;

/// What to generate, and until when. The default is greedy, until the model ends the text or the context is full.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Most tokens to generate.
    pub max_tokens: Option<usize>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that can be shown now that this token is here: whole characters, perhaps none, and never a part of a stop
    /// string. The texts of all tokens together are the answer.
    pub text: String,
}

/// Why an answer is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it; its last token says so, and has no text of its own.
    EndOfText,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// Prompt and answer fill the context window.
    ContextFull,
    /// The session was closed, or began another answer.
    Cancelled,
}

impl Finish {
    /// As a word: `end`, `stop`, `length`, `context`, `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::EndOfText => "end",
            Finish::StopString => "stop",
            Finish::MaxTokens => "length",
            Finish::ContextFull => "context",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// How long what took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens of the prompt that were in the KV cache already.
    pub n_reused: usize,
    /// Tokens generated.
    pub n_generated: usize,
    /// From the request to the first token.
    pub prompt: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens computed per second (pp); `None` before the first token.
    pub fn prompt_per_second(&self) -> Option<f64> {
        rate(self.n_prompt - self.n_reused, self.prompt)
    }

    /// Tokens generated per second (tg), after the first one; `None` before the second.
    pub fn decode_per_second(&self) -> Option<f64> {
        rate(self.n_generated.saturating_sub(1), self.decode)
    }
}

fn rate(n: usize, time: Duration) -> Option<f64> {
    (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64())
}

/// What a session asks for.
pub(super) struct Request {
    pub(super) prompt: Vec<u32>,
    pub(super) options: GenerateOptions,
    pub(super) sender: mpsc::Sender<Result<Update>>,
    pub(super) since: Instant,
}

/// What goes through the channel.
pub(super) struct Update {
    token: Token,
    timings: Timings,
    finish: Option<Finish>,
}

/// The worker's end of an answer.
pub(super) struct Generation {
    sender: mpsc::Sender<Result<Update>>,
    /// What came when the channel had no room left: steps that ran ahead bring more tokens than were asked for.
    waiting: VecDeque<Result<Update>>,
    /// Whether the last token has come.
    is_over: bool,
    sampler: Sampler,
    detokenizer: Detokenizer,
    filter: StopFilter,
    tokenizer: Arc<dyn Tokenizer>,
    max_tokens: usize,
    timings: Timings,
    since: Instant,
}

impl Generation {
    pub(super) fn new(request: Request, n_reused: usize, tokenizer: Arc<dyn Tokenizer>) -> Self {
        let mut sampler = Sampler::new(request.options.sampler);
        request.prompt.iter().for_each(|&token| sampler.accept(token));
        Self {
            sender: request.sender,
            waiting: VecDeque::new(),
            is_over: false,
            sampler,
            detokenizer: Detokenizer::new(tokenizer.clone()),
            filter: StopFilter::new(&request.options.stop),
            tokenizer,
            max_tokens: request.options.max_tokens.unwrap_or(usize::MAX),
            timings: Timings { n_prompt: request.prompt.len(), n_reused, ..Timings::default() },
            since: request.since,
        }
    }

    /// Hands on what waits, as far as there is room. Whether there is more room then (ready), the reader is slow (pending)
    /// or nothing more is to be handed on, since it is gone or has everything (an error).
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), mpsc::SendError>> {
        while let Poll::Ready(room) = self.sender.poll_ready(context) {
            room?;
            match self.waiting.pop_front() {
                Some(update) => self.sender.start_send(update)?,
                None if self.is_over => self.sender.disconnect(),
                None => return Poll::Ready(Ok(())),
            }
        }
        Poll::Pending
    }

    /// Whether anybody reads what comes.
    pub(super) fn is_read(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether there is a token to come after `n` more.
    pub(super) fn goes_on_after(&self, n: usize) -> bool {
        !self.is_over && n < self.max_tokens - self.timings.n_generated
    }

    pub(super) fn options(&self) -> &SamplerOptions {
        self.sampler.options()
    }

    /// How a device is to draw the next token, which counts as drawn then.
    pub(super) fn next_draw(&mut self) -> Draw {
        self.sampler.next_draw()
    }

    pub(super) fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        self.sampler.sample(logits)
    }

    /// Hands a token to the stream. `None` means that the logits were no numbers; `room` is how many more tokens the
    /// context can take.
    pub(super) fn send(&mut self, id: Option<u32>, room: usize) {
        let update = id.ok_or(Error::BadLogits).and_then(|id| self.update(id, room));
        self.is_over = !matches!(&update, Ok(Update { finish: None, .. }));
        self.waiting.push_back(update);
    }

    fn update(&mut self, id: u32, room: usize) -> Result<Update> {
        self.sampler.accept(id);
        self.note_time();
        let cut = self.filter.push(self.detokenizer.push(id)?);
        let finish = if self.tokenizer.is_eog(id) {
            Some(Finish::EndOfText)
        } else if matches!(cut, Cut::Stop(_)) {
            Some(Finish::StopString)
        } else if self.timings.n_generated == self.max_tokens {
            Some(Finish::MaxTokens)
        } else {
            (room == 0).then_some(Finish::ContextFull)
        };
        let text = match cut {
            Cut::Stop(text) => text,
            Cut::Open(text) if finish.is_none() => text,
            Cut::Open(text) => text + &self.rest(),
        };
        Ok(Update { token: Token { id, text }, timings: self.timings, finish })
    }

    /// What was held back.
    fn rest(&mut self) -> String {
        match self.filter.push(self.detokenizer.finish()) {
            Cut::Stop(text) => text,
            Cut::Open(text) => text + &self.filter.finish(),
        }
    }

    fn note_time(&mut self) {
        let now = self.since.elapsed();
        if self.timings.n_generated == 0 {
            self.timings.prompt = now;
        }
        self.timings.decode = now - self.timings.prompt;
        self.timings.n_generated += 1;
    }
}

/// An answer as it comes: a stream of tokens. Dropping it stops generation.
#[derive(Debug)]
pub struct TokenStream {
    source: Source,
    status: Arc<Status>,
    timings: Timings,
    finish: Option<Finish>,
}

#[derive(Debug)]
enum Source {
    /// The request itself was wrong.
    Refused(Option<Error>),
    Channel(mpsc::Receiver<Result<Update>>),
    Over,
}

impl TokenStream {
    pub(super) fn new(receiver: mpsc::Receiver<Result<Update>>, status: Arc<Status>) -> Self {
        Self { source: Source::Channel(receiver), status, timings: Timings::default(), finish: None }
    }

    pub(super) fn refused(error: Error, status: Arc<Status>) -> Self {
        Self { source: Source::Refused(Some(error)), status, timings: Timings::default(), finish: None }
    }

    pub(super) fn finished(finish: Finish, status: Arc<Status>) -> Self {
        Self { source: Source::Over, status, timings: Timings::default(), finish: Some(finish) }
    }

    /// Why the answer is over; `None` while it is not, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// How long it took up to the last token that was read.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Stops generation, as dropping it does; what was read can still be asked about.
    pub fn cancel(&mut self) {
        self.source = Source::Over;
    }

    fn end(&mut self, error: Option<Error>) -> Poll<Option<Result<Token>>> {
        self.source = Source::Over;
        Poll::Ready(error.map(Err))
    }
}

impl Stream for TokenStream {
    type Item = Result<Token>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let receiver = match &mut self.source {
            Source::Refused(error) => {
                let error = error.take();
                return self.end(error);
            }
            Source::Over => return Poll::Ready(None),
            Source::Channel(receiver) => receiver,
        };
        match Pin::new(receiver).poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(update))) => {
                self.timings = update.timings;
                self.finish = update.finish;
                if self.finish.is_some() {
                    self.source = Source::Over;
                }
                Poll::Ready(Some(Ok(update.token)))
            }
            Poll::Ready(Some(Err(error))) => self.end(Some(error)),
            // The worker let go of it before it was finished.
            Poll::Ready(None) => {
                let error = self.status.error();
                self.finish = error.is_none().then_some(Finish::Cancelled);
                self.end(error)
            }
        }
    }
}
