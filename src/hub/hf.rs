//! `hf:OWNER/REPO[:FILE-part]`: models in repositories of Hugging Face.
//!
//! The folder is shared with the tools of Hugging Face, which lay it out like this:
//!
//! ```text
//! models--OWNER--REPO/refs/main                  the commit that `main` was last seen at
//!                     snapshots/COMMIT/FILE      a link to …
//!                     blobs/SHA256               … the file
//! ```
//!
//! A start asks the network only where the answer could differ from what is in the folder.

use std::path::{Path, PathBuf};

use super::select;
use super::{Hub, Progress};
use crate::error::{Error, Result};

/// A repository, and which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    /// `OWNER/REPO`
    pub(super) repo: &'a str,
    /// Part of a file's name, or a tag as `Q4_K_M`.
    pub(super) part: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Reads what follows `hf:`.
    pub(super) fn parse(model: &str, text: &'a str) -> Result<Self> {
        let (repo, part) = match text.split_once(':') {
            Some((repo, part)) => (repo, Some(part).filter(|p| !p.is_empty())),
            None => (text, None),
        };
        match repo.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => Ok(Self { repo, part }),
            _ => Err(Error::Model {
                model: model.into(),
                what: "is not the name of a repository".into(),
                hint: "write `hf:OWNER/REPO`, or `hf:OWNER/REPO:Q4_K_M` to choose a file".into(),
            }),
        }
    }
}

/// Whether this can be an owner or a repository; such a name is safe in paths and addresses.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(allowed)
}

/// The folder of one repository.
pub(super) struct RepoDir {
    root: PathBuf,
}

impl RepoDir {
    pub(super) fn new(hub: &Hub, repo: &str) -> Self {
        Self { root: hub.hf_cache_dir.join(format!("models--{}", repo.replace('/', "--"))) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    #[cfg(feature = "hub")]
    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(name)
    }

    #[cfg(feature = "hub")]
    pub(super) fn main_ref(&self) -> PathBuf {
        self.root.join("refs").join("main")
    }

    /// The snapshot of `main` as last seen.
    fn current(&self) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.root.join("refs").join("main")).ok()?;
        Some(self.snapshot(commit.trim())).filter(|dir| dir.is_dir())
    }
}

/// The first file of the model.
pub(super) fn resolve(hub: &Hub, model: &str, reference: &Reference<'_>, progress: Progress<'_>) -> Result<PathBuf> {
    let snapshot = RepoDir::new(hub, reference.repo).current();
    let cached = snapshot.and_then(|dir| {
        let files = files_below(&dir);
        let choice = select::choose(files.iter().map(String::as_str), reference.part).ok()?;
        Some((dir.join(&choice.files[0]), choice.certain))
    });
    match cached {
        Some((path, true)) => Ok(path),
        Some((path, false)) => fetch_or(hub, model, reference, Some(path), progress),
        None => fetch_or(hub, model, reference, None, progress),
    }
}

/// Fetches the model; where the repository cannot be reached, `cached` will do.
#[cfg(feature = "hub")]
fn fetch_or(
    hub: &Hub,
    model: &str,
    reference: &Reference<'_>,
    cached: Option<PathBuf>,
    progress: Progress<'_>,
) -> Result<PathBuf> {
    use super::Event;
    use super::{download::Failure, repo};
    match repo::fetch(hub, model, reference, progress) {
        Ok(path) => Ok(path),
        Err(Failure::Local(error)) => Err(error),
        Err(Failure::Source(why)) => match cached {
            Some(path) => {
                progress(Event::Failed { from: &hub.hf_endpoint, why: &why });
                Ok(path)
            }
            None => Err(Error::Model {
                model: model.into(),
                what: format!("cannot be fetched from {}: {why}", hub.hf_endpoint),
                hint: "check the name and the network; HF_ENDPOINT names a mirror, HF_TOKEN opens private and gated \
                       repositories; a GGUF file that is here already can be given by its path"
                    .into(),
            }),
        },
    }
}

#[cfg(not(feature = "hub"))]
fn fetch_or(hub: &Hub, model: &str, _: &Reference<'_>, cached: Option<PathBuf>, _: Progress<'_>) -> Result<PathBuf> {
    cached.ok_or_else(|| super::no_downloads(model, &hub.hf_cache_dir))
}

/// Files below `dir` as paths with `/`, links followed; those that cannot be read are not there.
fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.metadata() {
                Ok(m) if m.is_dir() => open.push(path),
                Ok(_) => files.extend(path.strip_prefix(dir).ok().map(with_slashes)),
                Err(_) => {}
            }
        }
    }
    files
}

fn with_slashes(path: &Path) -> String {
    path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
