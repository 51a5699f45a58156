//! Reads the header of one file: magic, counts, metadata, tensor table. Everything is checked here.

use std::path::Path;

use super::cursor::{Cursor, Parse};
use super::ggml_type::GgmlType;
use super::names::NameIndex;
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, Metadata, TensorInfo, VERSION};
use crate::error::{Error, Result};
use crate::quant::SharedBytes;

/// Bytes of the smallest metadata entry: length of a key, one letter, type, one byte of value.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;

/// Bytes of the smallest row of the tensor table: length of a name, one letter, number of dimensions (0), type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 4 + 8;

/// What one file holds.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) version: u32,
    pub(super) alignment: usize,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) bytes: SharedBytes,
}

/// Reads the header in `bytes`, which come from the file `path`.
pub(super) fn parse(bytes: SharedBytes, path: &Path) -> Result<Parsed> {
    read(bytes).map_err(|what| Error::Gguf { path: path.into(), what })
}

fn read(bytes: SharedBytes) -> Parse<Parsed> {
    let mut c = Cursor::new(&bytes);
    let version = magic_and_version(&mut c)?;
    let n_tensors = c.count("tensors", MIN_TENSOR_BYTES)?;
    let n_entries = c.count("metadata keys", MIN_ENTRY_BYTES)?;
    // Vectors grow with what is read rather than being reserved for the counts, which may be lies.
    let mut entries = Vec::new();
    for _ in 0..n_entries {
        entries.push(entry(&mut c)?);
    }
    let metadata = Metadata::new(entries)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    for _ in 0..n_tensors {
        tensors.push(tensor(&mut c)?);
    }
    let data_start = c.pos().checked_next_multiple_of(alignment).ok_or("the alignment is beyond any memory")?;
    for tensor in &mut tensors {
        place(tensor, data_start, alignment, bytes.len()).map_err(|e| format!("tensor `{}`: {e}", tensor.name))?;
    }
    NameIndex::new(&tensors, |t| &t.name).map_err(|name| format!("tensor `{name}` appears twice"))?;
    Ok(Parsed { version, alignment, metadata, tensors, bytes: bytes.clone() })
}

fn magic_and_version(c: &mut Cursor<'_>) -> Parse<u32> {
    if c.remaining() == 0 {
        return Err("the file is empty".into());
    }
    let start = c.peek(16);
    if !start.starts_with(&MAGIC) {
        return Err(match start {
            [b'F', b'U', b'G', b'G', ..] => "it is big-endian, which is not supported".into(),
            [b'l' | b't' | b'f', b'm' | b'j', b'g', b'g', ..] => "it is in a GGML format older than GGUF".into(),
            [b'P', b'K', 3, 4, ..] => "it is a zip archive (PyTorch?)".into(),
            _ if start.starts_with(b"version https:/") => "it is a Git LFS pointer, not the model itself".into(),
            _ if start.starts_with(b"<") => "it is a web page, not a model".into(),
            _ => format!("it starts with \"{}\" instead of \"GGUF\"", start[..start.len().min(4)].escape_ascii()),
        });
    }
    c.take(MAGIC.len())?;
    match c.u32()? {
        version @ 2..=VERSION => Ok(version),
        1 => Err("it has version 1 of the format, from 2023; versions 2 and 3 can be read".into()),
        version if version != 0 && version & 0xffff == 0 => Err("it is big-endian, which is not supported".into()),
        version => Err(format!("it has version {version} of the format; versions 2 and 3 can be read")),
    }
}

fn entry(c: &mut Cursor<'_>) -> Parse<(String, Value)> {
    let key = c.name("metadata key")?;
    let value = c.value_type().and_then(|t| Value::read(c, t)).map_err(|e| format!("metadata key `{key}`: {e}"))?;
    Ok((key, value))
}

fn alignment(metadata: &Metadata) -> Parse<usize> {
    let alignment = metadata.opt_u32("general.alignment").map_err(|e| e.to_string())?;
    match alignment {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() => Ok(n as usize),
        Some(n) => Err(format!("`general.alignment` is {n}, which is no power of two")),
    }
}

/// Reads a row of the table; its offset is still relative to the start of the data, which is not known yet.
fn tensor(c: &mut Cursor<'_>) -> Parse<TensorInfo> {
    let name = c.name("tensor name")?;
    let info = (|| {
        let n_dims = c.u32()? as usize;
        if n_dims > MAX_DIMS {
            return Err(format!("{n_dims} dimensions; at most {MAX_DIMS} are possible"));
        }
        let mut shape = Vec::with_capacity(n_dims);
        for _ in 0..n_dims {
            let dim = c.u64()?;
            let dim = usize::try_from(dim).map_err(|_| format!("a dimension of {dim} is beyond any memory"))?;
            shape.push(dim);
        }
        shape.reverse();
        let format_id = c.u32()?;
        let offset = c.u64()?;
        let offset = usize::try_from(offset).map_err(|_| format!("offset {offset} is beyond any file"))?;
        Ok((shape, format_id, offset))
    })();
    let (shape, format_id, offset) = info.map_err(|e| format!("tensor `{name}`: {e}"))?;
    Ok(TensorInfo { name, shape, format_id, part: 0, offset, n_bytes: None })
}

/// Finds where a tensor lies in the file, and checks that it does.
fn place(info: &mut TensorInfo, data_start: usize, alignment: usize, file_len: usize) -> Parse<()> {
    if info.shape.contains(&0) {
        return Err(format!("shape {:?} holds nothing", info.shape));
    }
    if !info.offset.is_multiple_of(alignment) {
        return Err(format!("offset {} is no multiple of the alignment {alignment}", info.offset));
    }
    // A type that nobody knows takes an unknown number of bytes, but its number of elements has to be one.
    let known = GgmlType::by_id(info.format_id);
    let n_bytes = known.unwrap_or(&GgmlType::UNKNOWN).tensor_bytes(&info.shape)?;
    let start = info.offset.checked_add(data_start).filter(|&start| start <= file_len);
    let room = start.map_or(0, |start| file_len - start);
    match start {
        Some(start) if known.is_none() || n_bytes <= room => {
            info.offset = start;
            info.n_bytes = known.map(|_| n_bytes);
            Ok(())
        }
        _ => Err(format!(
            "{n_bytes} bytes at {data_start} + {} reach beyond the end of the file at byte {file_len}: is it truncated?",
            info.offset
        )),
    }
}
