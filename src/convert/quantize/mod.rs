//! A GGUF file with its weights in other formats.
//!
//! What a file is quantized to has a name, as llama.cpp has them: a *mix* (`Q4_K_M`), which stores most matrices in one
//! format and those that suffer most in better ones. `mix` has the rules, which give the same format for each tensor as
//! llama.cpp's; this file has what they are applied to.

mod mix;

use std::collections::HashMap;
use std::path::Path;

use regex_automata::meta::Regex;

use mix::{Facts, Role};
pub use mix::{Mix, mixes};
pub(super) use mix::{Subject, is_quantized};

use super::imatrix::Imatrix;
use super::plan::{Importance, Plan, Planned};
use super::rows::Stored;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, Value};
use crate::quant::{self, Format};

/// ggml's version of the block formats, `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// How a file is to be quantized.
#[derive(Debug, Clone)]
pub struct Options {
    /// What most of it becomes.
    pub mix: Mix,
    /// All matrices in the mix's own format.
    pub pure: bool,
    /// The format of `output.weight`, whatever the mix says.
    pub output: Option<&'static Format>,
    /// The format of `token_embd.weight`, whatever the mix says.
    pub token_embd: Option<&'static Format>,
    /// Leave `output.weight` as it is.
    pub leave_output: bool,
    /// Formats of tensors by their whole names, whatever else says; see [`Options::choose`].
    pub chosen: HashMap<String, &'static Format>,
    /// How much the columns of matrices count.
    pub importance: Option<Importances>,
    /// Take also files whose weights are quantized already, which adds error to error.
    pub requantize: bool,
}

impl Options {
    /// `mix`, and nothing special.
    pub fn new(mix: Mix) -> Self {
        Self {
            mix,
            pure: false,
            output: None,
            token_embd: None,
            leave_output: false,
            chosen: HashMap::new(),
            importance: None,
            requantize: false,
        }
    }

    /// `format` for all matrices of `gguf` whose names the regular expression `pattern` matches, and no earlier one did.
    ///
    /// # Errors
    /// If `pattern` is none, or matches nothing.
    pub fn choose(&mut self, gguf: &Gguf, pattern: &str, format: &'static Format) -> Result<()> {
        let usage = |what, hint: &str| Error::Usage { what, hint: hint.into() };
        let regex = Regex::new(pattern)
            .map_err(|_| usage(format!("`{pattern}` is no regular expression"), "write a part of tensors' names"))?;
        let mut n_matched = 0;
        for tensor in gguf.tensors().iter().filter(|t| is_quantized(&subject(t)) && regex.is_match(&t.name)) {
            self.chosen.entry(tensor.name.clone()).or_insert(format);
            n_matched += 1;
        }
        match n_matched {
            0 => Err(usage(
                format!("no matrix has a name that matches `{pattern}`"),
                "`halfbyte inspect FILE --show tensors` lists their names",
            )),
            _ => Ok(()),
        }
    }
}

/// An importance matrix, and where it came from.
#[derive(Debug, Clone)]
pub struct Importances {
    /// Its file, as files that are made with it name it.
    pub file: String,
    /// What it says.
    pub imatrix: Imatrix,
}

impl Importances {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file, imatrix: Imatrix::read(path)? })
    }

    /// What files that are made with it say of it.
    fn entries(&self) -> Vec<(String, Value)> {
        let dataset = self.imatrix.datasets.first().map(|name| ("dataset", name.as_str().into()));
        let mut entries: Vec<(&str, Value)> = vec![("file", self.file.as_str().into())];
        entries.extend(dataset);
        entries.push(("entries_count", (self.imatrix.entries.len() as u32).into()));
        entries.push(("chunks_count", self.imatrix.n_chunks.into()));
        entries.into_iter().map(|(key, value)| (format!("quantize.imatrix.{key}"), value)).collect()
    }

    /// That of a tensor, if it says anything about it.
    ///
    /// # Errors
    /// If it is one of a tensor of another shape.
    fn of(&self, tensor: &Subject<'_>) -> Result<Option<Importance>> {
        let Some(entry) = self.imatrix.entries.get(tensor.name) else { return Ok(None) };
        let [matrices @ .., n_rows, row_len] = tensor.shape else { return Ok(None) };
        let n_matrices: usize = matrices.iter().product();
        let values = entry.means();
        match values.len() == n_matrices * row_len {
            true => Ok(Some(Importance { values, n_rows: *n_rows })),
            false => Err(Error::TensorShape {
                tensor: format!("{} of the importance matrix", tensor.name),
                expected: vec![n_matrices, *row_len],
                found: vec![entry.counts.len(), values.len() / entry.counts.len().max(1)],
            }),
        }
    }
}

/// The format with this name.
///
/// # Errors
/// If there is none.
pub fn format(name: &str) -> Result<&'static Format> {
    quant::by_name(name).ok_or_else(|| Error::Usage {
        what: format!("there is no format {name}"),
        hint: format!("formats: {}", quant::ALL.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")),
    })
}

/// The file that `gguf` becomes.
///
/// # Errors
/// If a tensor would be quantized that is in a format that cannot be read, or quantized already and `requantize` is not set.
pub fn plan(gguf: &Gguf, options: &Options) -> Result<Plan> {
    let subjects: Vec<_> = gguf.tensors().iter().map(subject).collect();
    let formats = formats(|key| gguf.metadata().get(key), &subjects, options)?;
    let mut metadata = metadata(gguf, &options.mix);
    metadata.extend(options.importance.iter().flat_map(Importances::entries));
    let mut plan = Plan { metadata, tensors: Vec::with_capacity(subjects.len()), notes: Vec::new() };
    for (tensor, chosen) in gguf.tensors().iter().zip(formats) {
        let planned = planned(gguf, tensor, chosen.map(|chosen| chosen.format), options)?;
        plan.tensors.push(Planned { wanted: chosen.and_then(Chosen::missed), ..planned });
    }
    Ok(plan)
}

fn subject(tensor: &TensorInfo) -> Subject<'_> {
    Subject { name: &tensor.name, shape: &tensor.shape }
}

/// What a tensor gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    /// The format.
    pub(super) format: &'static Format,
    /// What it would be if blocks of that filled the tensor's rows.
    wanted: &'static str,
}

impl Chosen {
    /// What was wanted in place of the format, if it is another one.
    pub(super) fn missed(self) -> Option<&'static str> {
        (self.wanted != self.format.name).then_some(self.wanted)
    }
}

/// The format that each tensor of a file with these metadata gets; `None` if it stays what it is.
///
/// # Errors
/// If there is no such format.
pub(super) fn formats<'a>(
    get: impl Fn(&str) -> Option<&'a Value>,
    tensors: &[Subject<'a>],
    options: &Options,
) -> Result<Vec<Option<Chosen>>> {
    let facts = Facts::new(get, tensors.iter().copied(), options.importance.is_some());
    let places = mix::places(tensors);
    tensors.iter().zip(places).map(|(tensor, place)| choose(tensor, place, options, &facts)).collect()
}

/// Keys of the file, with what it is now, and without what said that it was in parts.
fn metadata(gguf: &Gguf, mix: &Mix) -> Vec<(String, Value)> {
    let kept = gguf.metadata().iter().filter(|(key, _)| {
        !key.starts_with("split.")
            && !key.starts_with("quantize.imatrix.")
            && !matches!(*key, "general.alignment" | "general.quantization_version" | "general.file_type")
    });
    kept.map(|(key, value)| (key.to_owned(), value.clone())).chain(what_it_is(mix)).collect()
}

/// What files say about how they are quantized.
pub(super) fn what_it_is(mix: &Mix) -> [(String, Value); 2] {
    [
        ("general.quantization_version".into(), QUANTIZATION_VERSION.into()),
        ("general.file_type".into(), mix.file_type.into()),
    ]
}

/// The format that a tensor gets; `None` if it stays what it is.
fn choose(tensor: &Subject<'_>, place: mix::Place, options: &Options, facts: &Facts) -> Result<Option<Chosen>> {
    let chosen = |wanted| format(mix::fitting(wanted, tensor)).map(|format| Some(Chosen { format, wanted }));
    if let Some(format) = options.chosen.get(tensor.name) {
        return chosen(format.name);
    }
    if !is_quantized(tensor) || options.leave_output && place.role == Role::Output {
        return Ok(None);
    }
    let asked = match place.role {
        Role::Output => options.output,
        Role::TokenEmbd => options.token_embd,
        _ => None,
    };
    chosen(match asked {
        Some(format) => format.name,
        None if options.pure => options.mix.format,
        None => mix::format_of(&options.mix, place, tensor, facts),
    })
}

/// The tensor in `format`, or as it is.
pub(super) fn planned(
    gguf: &Gguf,
    tensor: &TensorInfo,
    format: Option<&'static Format>,
    options: &Options,
) -> Result<Planned> {
    let TensorInfo { name, shape, format_id, .. } = tensor;
    let unsupported = || Error::UnsupportedFormat { tensor: name.clone(), format: tensor.format_name().into_owned() };
    let map = gguf.map(tensor).cloned();
    let Some(format) = format.filter(|format| format.id != *format_id) else {
        let bytes = gguf.bytes(tensor).ok_or_else(unsupported)?;
        return Ok(Planned::copy(name, shape, *format_id, bytes, map));
    };
    let weight = gguf.weight(name)?.ok_or_else(unsupported)?;
    // Q8_0 is as good as what it was made from.
    if weight.format.block_len > 1 && weight.format.name != "Q8_0" && !options.requantize {
        return Err(Error::Usage {
            what: format!("tensor `{name}` is quantized already, to {}", weight.format),
            hint: "start from a file in F32, F16, BF16 or Q8_0; or accept the loss with `--allow-requantize`".into(),
        });
    }
    let importance = options.importance.as_ref().map_or(Ok(None), |all| all.of(&subject(tensor)))?;
    Ok(Planned::encode(name, shape, Box::new(Stored { weight, map }), format, importance))
}
