//! Files mapped into memory: the one place where that happens.
//!
//! What is read through a map counts as memory of this process until the system wants it back. Who goes through a file
//! once, from its beginning to its end, gives each piece back when it is done with it: [`Map::release`].

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::quant::SharedBytes;

/// A whole file, read-only. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Map(Arc<memmap2::Mmap>);

impl Map {
    /// Maps a file; a path that cannot be one gets its own message.
    ///
    /// The file must not be cut short by another program while it is mapped; the operating system kills processes
    /// that read what is gone.
    ///
    /// # Errors
    /// If there is no such file, or it is nothing that can be mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.into(), source };
        let usage = |what| Error::Usage { what, hint: "name a .gguf file".into() };
        if path.as_os_str().is_empty() {
            return Err(usage("the path of the model is empty".into()));
        }
        let file = File::open(path).map_err(io("open"))?;
        let kind = file.metadata().map_err(io("read"))?;
        if kind.is_dir() {
            return Err(usage(format!("{} is a directory", path.display())));
        }
        if !kind.is_file() {
            return Err(usage(format!("{} is not a regular file, and only those can be mapped", path.display())));
        }
        // SAFETY: the map is private and read-only, and lives in the `Arc` that every slice of it holds. That nobody
        // cuts the file short meanwhile cannot be ensured by any program that maps files; `open` says so.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io("map"))?;
        Ok(Self(Arc::new(map)))
    }

    /// Its bytes, which keep it mapped.
    pub fn bytes(&self) -> SharedBytes {
        SharedBytes::new(self.0.clone())
    }

    /// Asks for large pages behind what has not been read yet, where the system and the file system have them: who goes through
    /// many megabytes waits for fewer addresses. What is read is then read two megabytes at a time.
    pub fn ask_for_large_pages(&self) {
        #[cfg(target_os = "linux")]
        // An error would mean that there are none.
        let _ = self.0.advise(memmap2::Advice::HugePage);
    }

    /// Gives back the memory behind `bytes`, if they are some of this map's: they are read from the file again when they are
    /// touched.
    pub fn release(&self, bytes: &[u8]) {
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
        if bytes.is_empty() || start.saturating_add(bytes.len()) > self.0.len() {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the map is read-only and of a file, so that dropped pages come back with the same content. An error would
        // mean that the memory stays where it is, which harms nobody.
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes.len()) };
    }
}
