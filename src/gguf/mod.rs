//! GGUF files: bytes → metadata and tensor table, over a memory map; and the writer.
//!
//! A file is input from a stranger. The parser reads through one bounded cursor, believes no count before the bytes
//! that it promises are there, and copies only names: arrays and tensors stay in the map and are borrowed from it. So
//! memory grows with the bytes that were really read, and all that follows (tokenizer, model, back ends) can rely on
//! sizes, ranges and shapes that were checked here, once.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

mod cursor;
mod ggml_type;
mod map;
mod metadata;
mod names;
mod parse;
mod split;
mod value;
mod write;

pub use ggml_type::GgmlType;
pub use map::Map;
pub use metadata::Metadata;
pub use value::{Array, StringArray, Value, ValueType};
pub use write::{GgufWriter, TensorStream};

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::quant::{self, Format, SharedBytes, Weight};
use names::NameIndex;

/// The first four bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written; it and version 2 can be read.
pub const VERSION: u32 = 3;

/// What tensors are aligned to where a file says nothing else, in bytes.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// Dimensions that a tensor has at most.
pub const MAX_DIMS: usize = 4;

/// An open file: what its header says, and the map that its tensors lie in.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: NameIndex,
    /// The bytes of the file, or of each part of a split one.
    parts: Vec<SharedBytes>,
    /// The file that each part is mapped from; none for one in memory.
    files: Vec<MappedFile>,
}

/// A file, and the map of it.
type MappedFile = (PathBuf, Map);

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// GGUF's name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Outermost dimension first: `[M, K]` for a matrix. (The file has them the other way round.)
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub format_id: u32,
    /// Which part of a split file it is in; 0 for a file in one piece.
    pub part: usize,
    /// Where in that part it starts, in bytes from the part's beginning.
    pub offset: usize,
    /// What it takes; `None` if the type is not in [`GgmlType::ALL`], so that nobody knows.
    pub n_bytes: Option<usize>,
}

impl TensorInfo {
    /// The format, if halfbyte can compute with it.
    pub fn format(&self) -> Option<&'static Format> {
        quant::by_id(self.format_id)
    }

    /// ggml's name of the type, or `type 99` for one that is not known.
    pub fn format_name(&self) -> Cow<'static, str> {
        match GgmlType::by_id(self.format_id) {
            Some(t) => t.name.into(),
            None => format!("type {}", self.format_id).into(),
        }
    }

    /// How many numbers it holds.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Gguf {
    /// Maps a file and reads its header. Naming any part of a split file (`…-00002-of-00003.gguf`) opens all of them as
    /// one.
    ///
    /// The file must not be cut short by another program while it is mapped; the operating system kills processes
    /// that read what is gone.
    ///
    /// # Errors
    /// If a file cannot be opened, or is not what GGUF says: see [`Error::Gguf`].
    pub fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        let parsed = parse::parse(map.bytes(), path)?;
        match split::SplitInfo::of(&parsed, path)? {
            None => Ok(Self { files: vec![(path.into(), map)], ..Self::from_parts(path, vec![parsed]) }),
            Some(info) => {
                let (files, parts) = split::open_all(&info, (map, parsed), path)?;
                Ok(Self { files, ..Self::from_parts(path, parts) })
            }
        }
    }

    /// Reads the header of a file in memory; `name` is what error messages call it.
    ///
    /// # Errors
    /// If the bytes are not what GGUF says, or are one part of a split file.
    pub fn from_bytes(bytes: SharedBytes, name: &Path) -> Result<Self> {
        let parsed = parse::parse(bytes, name)?;
        if let Some(info) = split::SplitInfo::of(&parsed, name)? {
            let what = format!("it is part {} of {}, which can only be opened as files", info.no + 1, info.count);
            return Err(Error::Gguf { path: name.into(), what });
        }
        Ok(Self::from_parts(name, vec![parsed]))
    }

    /// Joins parts, whose tensors have distinct names. The first one's metadata are the file's.
    fn from_parts(path: &Path, parsed: Vec<parse::Parsed>) -> Self {
        let mut parts = Vec::with_capacity(parsed.len());
        let mut tensors = Vec::new();
        let mut first = None;
        for part in parsed {
            parts.push(part.bytes);
            tensors.extend(part.tensors);
            first.get_or_insert((part.version, part.alignment, part.metadata));
        }
        let (version, alignment, metadata) = first.expect("a file has at least one part");
        let by_name = NameIndex::new(&tensors, |t| &t.name).expect("names were checked to be distinct");
        Self { path: path.into(), version, alignment, metadata, tensors, by_name, parts, files: Vec::new() }
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensors are aligned to, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Files that this one is made of.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// The files that it is made of; none if it is in memory.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// See [`Map::ask_for_large_pages`]: for all files.
    pub fn ask_for_large_pages(&self) {
        self.files.iter().for_each(|(_, map)| map.ask_for_large_pages());
    }

    /// Bytes of all files together.
    pub fn n_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Keys and values, in the file's order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor table, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The row of the table with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(&self.tensors, name, |t| &t.name).map(|i| &self.tensors[i])
    }

    /// The weight with this name, untouched and not copied: its bytes are those of the map.
    ///
    /// # Errors
    /// If the file has it in a format that is none of [`quant::ALL`].
    pub fn weight(&self, name: &str) -> Result<Option<Weight>> {
        let Some(info) = self.tensor(name) else { return Ok(None) };
        match (info.format(), self.bytes(info)) {
            (Some(format), Some(bytes)) => Ok(Some(Weight { shape: info.shape.clone(), format, bytes })),
            _ => Err(Error::UnsupportedFormat { tensor: name.into(), format: info.format_name().into_owned() }),
        }
    }

    /// The bytes of a tensor of this file, of whatever type; `None` if nobody knows how many they are.
    pub fn bytes(&self, info: &TensorInfo) -> Option<SharedBytes> {
        Some(self.parts[info.part].slice(info.offset..info.offset + info.n_bytes?))
    }

    /// The map that a tensor of this file lies in; `None` if it is in memory.
    pub fn map(&self, info: &TensorInfo) -> Option<&Map> {
        self.files.get(info.part).map(|(_, map)| map)
    }
}
