//! PyTorch's checkpoints (`.pth`): ZIP archives of stored members, a pickle that describes tensors, and their numbers.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle;
use crate::convert::tensors::{Tensor, Tensors};
use crate::error::{Error, Result};
use crate::gguf::Map;
use crate::quant::{self, SharedBytes};

/// The tensors of a file.
///
/// # Errors
/// If it is no such archive, holds anything but tensors, or is cut off.
pub(super) fn tensors(path: &Path) -> Result<Tensors> {
    let map = Map::open(path)?;
    let mut tensors = Tensors::default();
    let fault = |what: String| Error::Source { path: path.into(), what };
    let members = members(&map.bytes()).map_err(fault)?;
    let (root, table) = members
        .iter()
        .find_map(|(name, bytes)| Some((name.strip_suffix("data.pkl")?, bytes)))
        .ok_or_else(|| fault("not a checkpoint of PyTorch 1.6 or later: it has no data.pkl".into()))?;
    for (name, described) in pickle::tensors(table).map_err(fault)? {
        let tensor =
            tensor(&described, root, &members, &map).map_err(|what| fault(format!("tensor `{name}`: {what}")))?;
        tensors.add(path, String::from(&*name), tensor)?;
    }
    tensors.files.push(path.into());
    Ok(tensors)
}

/// The members of an archive, by name.
fn members(bytes: &SharedBytes) -> Result<HashMap<String, SharedBytes>, String> {
    let not_zip = |error| format!("not a ZIP archive: {error}");
    let mut archive = ZipArchive::new(Cursor::new(&**bytes)).map_err(not_zip)?;
    let mut members = HashMap::new();
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(not_zip)?;
        let name = member.name().map_err(not_zip)?.into_owned();
        if member.compression() != CompressionMethod::Stored {
            return Err(format!("{name} is compressed, which checkpoints are not"));
        }
        let start = member.data_start().and_then(|start| usize::try_from(start).ok());
        let end = start.zip(usize::try_from(member.size()).ok()).and_then(|(start, len)| start.checked_add(len));
        match start.zip(end) {
            Some((start, end)) if end <= bytes.len() => members.insert(name, bytes.slice(start..end)),
            _ => return Err(format!("{name} is cut off")),
        };
    }
    Ok(members)
}

fn tensor(
    described: &pickle::Described,
    root: &str,
    members: &HashMap<String, SharedBytes>,
    map: &Map,
) -> Result<Tensor, String> {
    let format = quant::by_name(described.format).ok_or("its numbers are of an unknown kind")?;
    let storage =
        members.get(&format!("{root}data/{}", described.storage)).ok_or("its numbers are not in the archive")?;
    let n = described.shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
    let range = n.and_then(|n| {
        let start = described.offset.checked_mul(format.block_bytes)?;
        Some(start..start.checked_add(n.checked_mul(format.block_bytes)?)?)
    });
    let range = range.filter(|range| range.end <= storage.len()).ok_or("it has fewer numbers than its shape says")?;
    Ok(Tensor { shape: described.shape.clone(), format: Some(format), bytes: storage.slice(range), map: map.clone() })
}
