//! Files that appear whole or not at all: written next to their place under another name, and renamed when they are done.
//!
//! Under that other name a file is locked as long as its process lives, so that what a killed process left behind can be told from
//! what another one is writing. What is no regular file, as a pipe, is written as it is: replaced by a file it would be lost.

use std::fs::{self, File, FileType, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::file::InPieces;

/// Files that this process is writing, under the names that they have until they are done.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How these names end. They begin with a dot and the name that the file will have.
const ENDING: &str = ".unfinished";

/// Links that are followed to where a file is to lie: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// That a file could be written at `target`, which must be none of `inputs`: to be asked before long work for it.
///
/// # Errors
/// If it is an input, or cannot be a file.
pub fn check_output<'a>(target: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let output = Output::new(target, inputs)?;
    let Some(folder) = output.moves.as_ref().and_then(|moves| folder_of(&moves.to)) else { return Ok(()) };
    match fs::metadata(folder) {
        Ok(_) => Ok(()),
        Err(source) => Err(output.not_created(source)),
    }
}

/// Removes what this process has written of files that are not finished: for one that is about to end at once.
pub fn discard_unfinished() {
    for path in unfinished().drain(..) {
        // There is nobody left to tell.
        let _ = fs::remove_file(path);
    }
}

fn unfinished() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file in the making. What was written is removed when this is dropped before [`Output::finish`].
pub(crate) struct Output {
    /// As the user calls it.
    target: PathBuf,
    /// Its place, and where it lies until it is done; `None` if what is there takes bytes as they come.
    moves: Option<Move>,
}

struct Move {
    from: PathBuf,
    to: PathBuf,
}

impl Output {
    /// For the file `target`, which must be none of `inputs`.
    pub(crate) fn new<'a>(target: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let found = fs::metadata(target).map(|metadata| metadata.file_type()).ok();
        if found.is_some_and(takes_bytes) {
            return Ok(Self { target: target.into(), moves: None });
        }
        let place = followed(target);
        let Some(name) = place.file_name().filter(|_| found.is_none_or(|found| found.is_file())) else {
            return Err(Error::Usage {
                what: format!("{} is not the name of a file", target.display()),
                hint: "name the file that is to be written, like model-Q4_K_M.gguf".into(),
            });
        };
        if let Ok(place) = fs::canonicalize(target)
            && inputs.into_iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == place))
        {
            return Err(Error::Usage {
                what: format!("{} is both input and output", target.display()),
                hint: "give the output another name".into(),
            });
        }
        let from = place.with_file_name(format!("{}{}{ENDING}", prefix(&name.to_string_lossy()), std::process::id()));
        Ok(Self { target: target.into(), moves: Some(Move { from, to: place }) })
    }

    /// What to write to; it stays open until the end of [`Output::finish`]. Errors name the file that it will be.
    pub(crate) fn create(&self) -> Result<InPieces> {
        let Some(Move { from, to }) = &self.moves else {
            let open = OpenOptions::new().write(true).open(&self.target);
            return open.map(|file| InPieces::new(file, 0)).map_err(|source| self.not_created(source));
        };
        remove_abandoned(to);
        unfinished().push(from.clone());
        loop {
            let file = File::create(from).map_err(|source| self.not_created(source))?;
            // Where there are no locks, nobody else gets one either.
            let _ = file.lock();
            // Another process can have come between, and have found it without a lock.
            if from.exists() {
                return Ok(InPieces::new(file, 0));
            }
        }
    }

    fn not_created(&self, source: std::io::Error) -> Error {
        Error::Io { action: "create", path: self.target.clone(), source }
    }

    /// Puts what was written into its place.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(Move { from, to }) = &self.moves {
            fs::rename(from, to).map_err(|source| self.not_created(source))?;
            unfinished().retain(|path| path != from);
            self.moves = None;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(Move { from, .. }) = &self.moves {
            // It may not be there yet; and there is nobody to tell.
            let _ = fs::remove_file(from);
            unfinished().retain(|path| path != from);
        }
    }
}

/// Whether bytes are passed on as they are written.
#[cfg(unix)]
fn takes_bytes(found: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.is_fifo() || found.is_char_device()
}

/// Only files have paths here.
#[cfg(not(unix))]
fn takes_bytes(_: FileType) -> bool {
    false
}

/// Where the file is that `path` leads to by links, whether it exists or not.
fn followed(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&place) {
            Ok(next) => place = place.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => break,
        }
    }
    place
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// How names of unfinished files begin that are to be called `name`.
fn prefix(name: &str) -> String {
    format!(".{name}.")
}

/// Removes what processes left behind that were to write the file `place` and were killed.
fn remove_abandoned(place: &Path) {
    let (Some(name), Some(folder)) = (place.file_name(), folder_of(place)) else { return };
    let prefix = prefix(&name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let process = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(ENDING));
        if process.is_some_and(|process| process.parse::<u32>().is_ok())
            && OpenOptions::new().write(true).open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}
