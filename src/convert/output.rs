//! Files that appear whole or not at all: written next to their place under another name, and renamed when they are done.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file::InPieces;

/// A file in the making. What was written is removed when this is dropped before [`Output::finish`].
pub(super) struct Output {
    target: PathBuf,
    unfinished: PathBuf,
    finished: bool,
}

impl Output {
    /// For the file `target`, which must be none of `inputs`.
    pub(super) fn new<'a>(target: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let Some(name) = target.file_name().filter(|_| !target.is_dir()) else {
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
        let unfinished = format!(".{}.{}.unfinished", name.to_string_lossy(), std::process::id());
        Ok(Self { target: target.into(), unfinished: target.with_file_name(unfinished), finished: false })
    }

    /// What to write to. Errors name the file that it will be.
    pub(super) fn create(&self) -> Result<InPieces> {
        let file = File::create(&self.unfinished).map_err(|source| self.not_created(source))?;
        Ok(InPieces::new(file, 0))
    }

    fn not_created(&self, source: std::io::Error) -> Error {
        Error::Io { action: "create", path: self.target.clone(), source }
    }

    /// Puts what was written into its place.
    pub(super) fn finish(mut self) -> Result<()> {
        fs::rename(&self.unfinished, &self.target).map_err(|source| self.not_created(source))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            // It may not be there yet; and there is nobody to tell.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}
