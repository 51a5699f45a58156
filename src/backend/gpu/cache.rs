//! Compiled pipelines on disk, where the driver gives them out (Vulkan), so that the next start does not compile again.
//!
//! One file per adapter. Nothing depends on it: a file that is missing, damaged, of another driver or that can't be
//! written is as good as none.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::device::Device;

/// A driver's cache, and where it is kept.
pub(crate) struct PipelineCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    /// What the file holds.
    on_disk: Mutex<Option<Vec<u8>>>,
}

impl PipelineCache {
    /// Loads what the folder has for this device; `None` where the device has no such thing.
    pub(crate) fn load(device: &Device, folder: &Path) -> Option<Self> {
        let path = folder.join(device.cache_key.as_ref()?);
        let loaded = std::fs::read(&path).ok();
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("halfbyte"), data: loaded.as_deref(), fallback: true };
        // SAFETY: the data are what `get_data` of this function's cache gave, or else wgpu finds out: its header names the
        // adapter, the driver's version and the length, and drivers check their own header too. A file that somebody forged
        // within a folder of the user's own could do no more than that somebody already can.
        let cache = unsafe { device.device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, path, on_disk: Mutex::new(loaded) })
    }

    /// Writes the cache if it has changed: under another name first, so that nobody ever reads half a file.
    pub(crate) fn save(&self) {
        let mut on_disk = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(data) = self.cache.get_data().filter(|data| Some(data) != on_disk.as_ref()) else { return };
        let Some(folder) = self.path.parent() else { return };
        // Several programs may end at once, in this process and in others.
        static N_SAVED: AtomicU64 = AtomicU64::new(0);
        let n = N_SAVED.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.path.with_extension(format!("{}.{n}.part", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&unfinished, &data))
            .and_then(|()| std::fs::rename(&unfinished, &self.path));
        match written {
            Ok(()) => *on_disk = Some(data),
            // A full disk is no reason to stop.
            Err(_) => drop(std::fs::remove_file(&unfinished)),
        }
    }
}
