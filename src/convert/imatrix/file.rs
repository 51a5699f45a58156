//! Files of importance matrices: GGUF files with two tensors for each matrix, and the older ones without a name of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, Imatrix};
use crate::convert::json;
use crate::convert::plan::{Plan, Planned};
use crate::error::{Error, Result};
use crate::gguf::{self, Gguf, Value};
use crate::quant::SharedBytes;

/// What the tensors of a matrix are called after it.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

impl Imatrix {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// If it is none, or has numbers that make no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let fault = |what: String| Error::Imatrix { path: path.into(), what };
        let bytes = json::bytes(path)?.ok_or_else(|| Error::Io {
            action: "open",
            path: path.into(),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file"),
        })?;
        let imatrix = if bytes.starts_with(&gguf::MAGIC) {
            from_gguf(&Gguf::open(path)?)?
        } else {
            from_older(&bytes).ok_or_else(|| fault("it is of neither kind".into()))?
        };
        for (name, entry) in &imatrix.entries {
            let mut numbers = entry.sums.iter().chain(&entry.counts);
            let whole = !entry.counts.is_empty() && entry.sums.len().is_multiple_of(entry.counts.len());
            if !whole || !numbers.all(|x| x.is_finite() && *x >= 0.0) {
                return Err(fault(format!("its numbers for `{name}` make no sense")));
            }
        }
        Ok(imatrix)
    }

    /// The file that it is written to.
    pub fn plan(&self) -> Plan {
        let texts: Vec<&str> = self.datasets.iter().map(String::as_str).collect();
        let metadata = vec![
            ("general.type".into(), Value::from("imatrix")),
            ("imatrix.datasets".into(), texts.as_slice().into()),
            ("imatrix.chunk_count".into(), self.n_chunks.into()),
            ("imatrix.chunk_size".into(), self.chunk_len.into()),
        ];
        let mut tensors = Vec::with_capacity(2 * self.entries.len());
        for (name, entry) in &self.entries {
            let n = entry.counts.len();
            for (kind, numbers) in [(SUMS, &entry.sums), (COUNTS, &entry.counts)] {
                let bytes = SharedBytes::new(Arc::new(bytemuck::cast_slice::<_, u8>(numbers).to_vec()));
                tensors.push(Planned::copy(&format!("{name}{kind}"), &[n, numbers.len() / n], 0, bytes, None));
            }
        }
        Plan { metadata, tensors, notes: Vec::new() }
    }
}

fn from_gguf(gguf: &Gguf) -> Result<Imatrix> {
    let metadata = gguf.metadata();
    if metadata.opt_str("general.type")? != Some("imatrix") {
        let what = "it is a GGUF file, but not one of an importance matrix".into();
        return Err(Error::Imatrix { path: gguf.path().into(), what });
    }
    let mut entries = BTreeMap::new();
    for tensor in gguf.tensors() {
        let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
        let numbers = |name: String| -> Result<Vec<f32>> {
            let weight = gguf.weight(&name)?.ok_or(Error::MissingTensor { tensor: name })?;
            Ok(weight.to_f32())
        };
        let entry = Entry { sums: numbers(tensor.name.clone())?, counts: numbers(format!("{name}{COUNTS}"))? };
        entries.insert(name.to_owned(), entry);
    }
    let datasets = metadata.opt_strings("imatrix.datasets")?;
    Ok(Imatrix {
        entries,
        datasets: datasets.map_or_else(Vec::new, |texts| texts.iter_lossy().map(Into::into).collect()),
        n_chunks: metadata.opt_u32("imatrix.chunk_count")?.unwrap_or(0),
        chunk_len: metadata.opt_u32("imatrix.chunk_size")?.unwrap_or(0),
    })
}

/// A number of entries; for each its name, a number of calls and the means, times that number, with a length before each
/// list; then the number of the last call and the name of the text. All numbers have 32 bits.
fn from_older(bytes: &[u8]) -> Option<Imatrix> {
    let mut rest = bytes;
    let n_entries = count(&mut rest)?;
    let mut imatrix = Imatrix::default();
    for _ in 0..n_entries {
        let name = text(&mut rest)?;
        let n_calls = count(&mut rest)?;
        let n_values = count(&mut rest)?;
        let (values, after) = rest.split_at_checked(n_values.checked_mul(4)?)?;
        rest = after;
        let sums = values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        imatrix.entries.insert(name, Entry { sums, counts: vec![n_calls as f32] });
    }
    if !rest.is_empty() {
        imatrix.n_chunks = count(&mut rest)?.try_into().ok()?;
        imatrix.datasets = vec![text(&mut rest)?];
    }
    Some(imatrix)
}

fn count(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(i32::from_le_bytes(*number)).ok()
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let len = count(rest)?;
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    String::from_utf8(text.into()).ok()
}
