//! Fetching from a repository of Hugging Face: what it has, which of that is meant, and the way into the shared folder.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::download::{Failure, Part, Slot, Wanted, io, write_whole};
use super::hf::{Reference, RepoDir};
use super::http::Client;
use super::select::{self, Choice, NoChoice};
use super::{Entry, Hub, Progress};
use crate::error::{Error, Result};

/// The file of a catalogue row, if its repository still has that very file.
pub(super) fn fetch_entry(hub: &Hub, entry: &Entry, part: &mut Part, progress: Progress<'_>) -> Result<(), Failure> {
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
pub(super) fn fetch(
    hub: &Hub,
    model: &str,
    reference: &Reference<'_>,
    progress: Progress<'_>,
) -> Result<PathBuf, Failure> {
    let client = Client::new(hub)?;
    let listing = Listing::get(&client, reference.repo)?;
    let choice = choose(model, reference, &listing.files().collect::<Vec<_>>())?;
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
        all.filter_map(|s| Some((s["rfilename"].as_str()?, s))).filter(|(name, _)| is_below(name))
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

/// Picks from the files of a repository.
///
/// # Errors
/// If none fits, or several fit equally.
fn choose(model: &str, reference: &Reference<'_>, files: &[&str]) -> Result<Choice> {
    let named = |names: &[String]| names.join(", ");
    select::choose(files.iter().copied(), reference.part).map_err(|no| {
        let (what, hint) = match no {
            NoChoice::None(there) if there.is_empty() => (
                "the repository has no GGUF files".into(),
                format!("look for a repository with GGUF files, often `{}-GGUF`", reference.repo),
            ),
            NoChoice::None(there) => ("no file of the repository fits".into(), format!("it has: {}", named(&there))),
            NoChoice::Several(fit) => (
                format!("{} files of the repository fit", fit.len()),
                format!("name one as `hf:{}:FILE`: {}", reference.repo, named(&fit)),
            ),
        };
        Error::Model { model: model.into(), what, hint }
    })
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

/// Whether a path from the network stays below the folder it is joined to.
fn is_below(path: &str) -> bool {
    !path.is_empty() && !path.contains('\\') && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}
