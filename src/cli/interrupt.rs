//! Ctrl-C: the first one ends what is going on in good order, a second one ends the process. Without anything that can be
//! ended in order, so does the first.

use std::ops::ControlFlow;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;
use halfbyte::{Error, Result};

/// The exit code of a process that SIGINT ended, as shells have it.
pub(super) const EXIT_CODE: u8 = 130;

/// Where the handler finds whom to tell.
pub(super) struct Interrupt {
    listener: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Interrupt {
    /// Takes over Ctrl-C.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn install() -> Result<Self> {
        let listener: Arc<Mutex<Option<oneshot::Sender<()>>>> = Arc::default();
        let of_handler = listener.clone();
        let handler = move || {
            let listener = of_handler.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A listener that has gone has nothing left to end.
            if listener.is_none_or(|listener| listener.send(()).is_err()) {
                exit(EXIT_CODE.into());
            }
        };
        ctrlc::set_handler(handler)
            .map_err(|error| Error::Usage { what: format!("cannot handle Ctrl-C: {error}"), hint: String::new() })?;
        Ok(Self { listener })
    }

    /// Resolves at the next Ctrl-C.
    pub(super) fn listen(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

/// Whether what goes on is to go on: not after the Ctrl-C that `listener` waits for.
pub(super) fn flow(listener: &mut oneshot::Receiver<()>) -> ControlFlow<()> {
    if matches!(listener.try_recv(), Ok(Some(()))) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
