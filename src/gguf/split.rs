//! Files that were split into parts: `NAME-00001-of-00003.gguf` and so on, each a GGUF file with tensors of its own.
//!
//! The first part has the metadata; all have `split.no`, `split.count` and `split.tensors.count`.

use std::path::{Path, PathBuf};

use super::names::NameIndex;
use super::parse::{Parsed, parse};
use super::{Map, MappedFile};
use crate::error::{Error, Result};

/// What a part says about the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SplitInfo {
    /// Index of the part, from 0.
    pub(super) no: usize,
    /// Number of parts, at least 2.
    pub(super) count: usize,
    /// Tensors in all parts together, if it says so.
    n_tensors: Option<usize>,
}

impl SplitInfo {
    /// `None` for a file in one piece.
    pub(super) fn of(part: &Parsed, path: &Path) -> Result<Option<Self>> {
        let count = part.metadata.opt_usize("split.count")?.unwrap_or(0);
        if count < 2 {
            return Ok(None);
        }
        let no = part.metadata.usize("split.no")?;
        if no >= count {
            return Err(fault(path, format!("it says that it is part {} of {count}", no + 1)));
        }
        Ok(Some(Self { no, count, n_tensors: part.metadata.opt_usize("split.tensors.count")? }))
    }
}

/// The files that belong to `named`, which is the part `info`, in order, and what they hold.
pub(super) fn open_all(info: &SplitInfo, named: (Map, Parsed), path: &Path) -> Result<(Vec<MappedFile>, Vec<Parsed>)> {
    let paths = part_paths(path, info).ok_or_else(|| {
        let suffix = suffix(info.no, info.count);
        fault(path, format!("it is part {} of {}, so its name has to end in `{suffix}`", info.no + 1, info.count))
    })?;
    if let Some(missing) = paths.iter().find(|p| !p.exists()) {
        let what = format!("it is part {} of {}, and {} is missing", info.no + 1, info.count, missing.display());
        return Err(fault(path, what));
    }
    let mut named = Some(named);
    let (mut files, mut parts) = (Vec::new(), Vec::new());
    for (no, part_path) in paths.iter().enumerate() {
        let (map, mut part) = match named.take_if(|_| no == info.no) {
            Some(named) => named,
            None => {
                let map = Map::open(part_path)?;
                let part = parse(map.bytes(), part_path)?;
                (map, part)
            }
        };
        match SplitInfo::of(&part, part_path)? {
            Some(found) if (found.no, found.count) == (no, info.count) => {}
            _ => return Err(fault(part_path, format!("it does not say that it is part {} of {}", no + 1, info.count))),
        }
        for tensor in &mut part.tensors {
            tensor.part = no;
        }
        files.push((part_path.clone(), map));
        parts.push(part);
    }
    check_tensors(&parts, info, path)?;
    Ok((files, parts))
}

fn check_tensors(parts: &[Parsed], info: &SplitInfo, path: &Path) -> Result<()> {
    let tensors: Vec<_> = parts.iter().flat_map(|part| &part.tensors).collect();
    NameIndex::new(&tensors, |t| &t.name)
        .map_err(|name| fault(path, format!("tensor `{name}` is in two of its {} parts", info.count)))?;
    match info.n_tensors {
        Some(n) if n != tensors.len() => {
            Err(fault(path, format!("its {} parts hold {} tensors instead of {n}", info.count, tensors.len())))
        }
        _ => Ok(()),
    }
}

/// The names of all parts, if `path` is named as the part `info` is.
fn part_paths(path: &Path, info: &SplitInfo) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&suffix(info.no, info.count))?;
    Some((0..info.count).map(|no| path.with_file_name(format!("{stem}{}", suffix(no, info.count)))).collect())
}

/// What the name of part `no` (from 0) ends in.
fn suffix(no: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

fn fault(path: &Path, what: String) -> Error {
    Error::Gguf { path: path.into(), what }
}
