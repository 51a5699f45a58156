//! Ctrl-C: the first one ends what is going on in good order, a second one ends the process. Without anything that can be
//! ended in order, so does the first. Signals by which a system ends a process, or a terminal that goes away, end it at once. No
//! process that is ended so leaves half a file behind.

use std::ops::ControlFlow;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;
use halfbyte::{Error, Result, discard_unfinished};

/// The exit code of a process that SIGINT ended, as shells have it.
pub(super) const EXIT_CODE: u8 = 130;

/// Where the handler finds whom to tell.
pub(super) struct Interrupt {
    listener: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Interrupt {
    /// Takes over Ctrl-C, and the signals that end a process.
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
                discard_unfinished();
                exit(EXIT_CODE.into());
            }
        };
        ctrlc::set_handler(handler).map_err(refused)?;
        handle_ends()?;
        Ok(Self { listener })
    }

    /// Resolves at the next Ctrl-C.
    pub(super) fn listen(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Usage { what: format!("cannot handle Ctrl-C: {error}"), hint: String::new() }
}

/// Takes over SIGTERM, and SIGHUP where it is not ignored: who started this by `nohup` wants it to go on.
#[cfg(unix)]
fn handle_ends() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    use signal_hook::iterator::Signals;

    let wanted = [SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = Signals::new(wanted).map_err(refused)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            discard_unfinished();
            // As shells have it.
            exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(refused)
}

/// Makes a write beyond a limit on the size of files an error, as on a disk without room, where it would end the process and leave
/// half a file.
#[cfg(unix)]
pub(super) fn outlive_large_files() {
    // SAFETY: no function of ours is called by it.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// There is no such signal.
#[cfg(not(unix))]
pub(super) fn outlive_large_files() {}

/// Whether this process was started so that a signal means nothing to it.
#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a `sigaction` of zeros is one, and with no new one the call only writes to what it is given.
    let action = unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal, std::ptr::null(), &raw mut action);
        action
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// A console that is closed sends Ctrl-C's kin, and there is nothing else.
#[cfg(not(unix))]
fn handle_ends() -> Result<()> {
    Ok(())
}

/// Whether what goes on is to go on: not after the Ctrl-C that `listener` waits for.
pub(super) fn flow(listener: &mut oneshot::Receiver<()>) -> ControlFlow<()> {
    if matches!(listener.try_recv(), Ok(Some(()))) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
