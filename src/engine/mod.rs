//! A loaded model and the conversations that it has.
//!
//! An [`Engine`] owns a [`Program`](crate::backend::Program) on a thread of its own, which runs steps for all
//! [`Session`]s together. A session is one sequence of the paged KV cache; [`Session::generate`] gives a stream of
//! [`Token`]s. Nothing here knows what a device is made of: the same code drives the GPU, the CPU, and any other program.
//!
//! ```
//! use futures::executor::block_on_stream;
//! use halfbyte::engine::{Device, Engine, EngineOptions, Finish, GenerateOptions};
//!
//! # fn main() -> halfbyte::Result<()> {
//! # let path = "tests/golden/tiny/llama-q4_0.gguf";
//! let options = EngineOptions { device: Device::Cpu, ..EngineOptions::default() };
//! let engine = Engine::load(path.as_ref(), &options)?;
//! let prompt = engine.tokenizer().encode_prompt("Once upon a time")?;
//!
//! let mut session = engine.session()?;
//! let options = GenerateOptions { max_tokens: Some(8), ..GenerateOptions::default() };
//! let mut stream = session.generate(&prompt, options);
//! for token in block_on_stream(&mut stream) {
//!     print!("{}", token?.text);
//! }
//! assert_eq!(stream.finish(), Some(Finish::MaxTokens));
//! # Ok(())
//! # }
//! ```

mod conversation;
mod device;
mod generation;
mod load;
pub mod measure;
mod memory;
mod pages;
mod sampler;
mod sequence;
mod slot;
mod stop;
mod worker;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

pub use conversation::{Answer, Conversation};
pub use device::{Choice, Device, choose};
pub use generation::{Finish, GenerateOptions, Timings, Token, TokenStream};
pub use load::{EngineOptions, Facts, Loaded, default_threads};
pub use memory::available_bytes;
pub use sampler::{Sampler, SamplerOptions};

pub use crate::backend::KvFormat;
use crate::backend::{Limits, Profile, Progress};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use generation::{CHANNEL_LEN, Request};
use worker::{Command, Status, Worker};

/// A model that is ready to answer, on a device. Cheap to clone; the model is let go with the last clone and session.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Sender<Command>,
    status: Arc<Status>,
    thread: Mutex<Option<JoinHandle<()>>>,
    tokenizer: Arc<dyn Tokenizer>,
    facts: Facts,
    limits: Limits,
    n_vocab: usize,
    /// Sessions that are open, and that there ever were.
    n_open: AtomicUsize,
    n_ever: AtomicUsize,
}

impl Engine {
    /// Loads the GGUF file at `path`; see [`Loaded::open`].
    ///
    /// # Errors
    /// If the file can't be used, the device can't be had, or there is not enough memory for the plan.
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Engine> {
        Self::load_with(path, options, &mut |_, _| {})
    }

    /// As [`Engine::load`], told how many bytes of the weights are loaded.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with(path: &Path, options: &EngineOptions, progress: Progress<'_>) -> Result<Engine> {
        Engine::start(Loaded::open(path, options, progress)?)
    }

    /// Starts the thread that runs a loaded program.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(loaded: Loaded) -> Result<Engine> {
        let Loaded { program, tokenizer, facts } = loaded;
        let (commands, inbox) = channel();
        let status = Arc::new(Status::default());
        let (limits, n_vocab) = (program.limits(), program.graph().n_vocab);
        let worker = Worker::new(program, tokenizer.clone(), inbox, commands.clone());
        let of_thread = status.clone();
        let work = move || worker.run(&of_thread);
        let thread = std::thread::Builder::new().name("engine".into()).spawn(work).map_err(|error| Error::Usage {
            what: format!("cannot start a thread: {error}"),
            hint: "end other programs, or raise the limit on threads".into(),
        })?;
        Ok(Engine {
            shared: Arc::new(Shared {
                commands,
                status,
                thread: Mutex::new(Some(thread)),
                tokenizer,
                facts,
                limits,
                n_vocab,
                n_open: AtomicUsize::new(0),
                n_ever: AtomicUsize::new(0),
            }),
        })
    }

    /// Opens a conversation.
    ///
    /// # Errors
    /// If as many are open as the engine was set up for.
    pub fn session(&self) -> Result<Session> {
        let shared = self.shared.clone();
        let most = shared.limits.max_seqs;
        let more = |n: usize| (n < most).then_some(n + 1);
        if shared.n_open.fetch_update(Ordering::Acquire, Ordering::Acquire, more).is_err() {
            return Err(Error::Usage {
                what: format!("{most} sessions are open, and the engine was set up for no more"),
                hint: "set `EngineOptions::max_sessions`".into(),
            });
        }
        let id = shared.n_ever.fetch_add(1, Ordering::Relaxed) as u64;
        Ok(Session { shared, id })
    }

    /// Where the time of the steps since the last call went, with [`EngineOptions::profile`].
    pub fn profile(&self) -> Option<Profile> {
        let (sender, receiver) = channel();
        self.shared.commands.send(Command::Profile(sender)).ok()?;
        receiver.recv().ok().flatten()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenizer> {
        &self.shared.tokenizer
    }

    /// What was loaded, onto what, and how long it took.
    pub fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// What the program was compiled for.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A worker that has ended already does not listen.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.get_mut().ok().and_then(Option::take) {
            // A panic has been printed, and reported to every stream.
            let _ = thread.join();
        }
    }
}

/// One conversation: a sequence of tokens with its keys and values. Closed when dropped.
pub struct Session {
    shared: Arc<Shared>,
    id: u64,
}

impl Session {
    /// Generates what follows `prompt`, which is the whole conversation up to here, in tokens: what is in the KV cache
    /// of it, from this session's last answer or from any other session, is not computed again.
    ///
    /// A session gives one answer at a time: another call ends the one before. The stream yields an error, once, for
    /// a prompt that is empty, too long ([`Error::ContextFull`]) or not of this vocabulary, and if the device fails.
    pub fn generate(&mut self, prompt: &[u32], options: GenerateOptions) -> TokenStream {
        let status = self.shared.status.clone();
        if let Err(error) = self.check(prompt) {
            return TokenStream::refused(error, status);
        }
        if options.max_tokens == Some(0) {
            return TokenStream::finished(Finish::MaxTokens, status);
        }
        let (sender, receiver) = futures::channel::mpsc::channel(CHANNEL_LEN);
        let request = Request { prompt: prompt.to_vec(), options, sender, since: Instant::now() };
        // Without a worker the sender is dropped here, and the stream says why there is none.
        let _ = self.shared.commands.send(Command::Generate(self.id, Box::new(request)));
        TokenStream::new(receiver, status)
    }

    fn check(&self, prompt: &[u32]) -> Result<()> {
        let n_ctx = self.shared.limits.n_ctx;
        if prompt.is_empty() {
            return Err(Error::Usage {
                what: "the prompt has no tokens".into(),
                hint: "give some text to continue".into(),
            });
        }
        if prompt.len() >= n_ctx {
            return Err(Error::ContextFull { needed: prompt.len() + 1, n_ctx });
        }
        match prompt.iter().find(|&&token| token as usize >= self.shared.n_vocab) {
            Some(token) => Err(Error::Usage {
                what: format!("token {token} is not in the vocabulary of {}", self.shared.n_vocab),
                hint: String::new(),
            }),
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.shared.commands.send(Command::Close(self.id));
        // After the command, so that the session that takes this place comes after it, and finds its pages free.
        self.shared.n_open.fetch_sub(1, Ordering::Release);
    }
}
