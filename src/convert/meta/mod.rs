//! Folders as Meta published the first Llamas: params.json, tokenizer.model, and checkpoints that each hold a slice of every
//! matrix, since the model ran on as many GPUs.

mod checkpoint;
mod pickle;

use std::path::{Path, PathBuf};

use super::json::Object;
use super::rows::{Rows, SideBySide, Stacked};
use super::source::{Content, HUGGING_FACE, Made, Model, lost_window};
use super::tensors::Tensors;
use super::vocab;
use crate::error::{Error, Result};
use crate::gguf::Value;

/// More than any model came in.
const MAX_CHECKPOINTS: usize = 100;

/// How the slices of a matrix are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    /// Every checkpoint has all of it.
    Whole,
    /// One below the other.
    Rows,
    /// Side by side.
    Columns,
}

/// Modules of a layer, as Meta and as GGUF call them.
const MODULES: &[(&str, &str, Join)] = &[
    ("attention.wq", "attn_q", Join::Rows),
    ("attention.wk", "attn_k", Join::Rows),
    ("attention.wv", "attn_v", Join::Rows),
    ("attention.wo", "attn_output", Join::Columns),
    ("feed_forward.w1", "ffn_gate", Join::Rows),
    ("feed_forward.w2", "ffn_down", Join::Columns),
    ("feed_forward.w3", "ffn_up", Join::Rows),
    ("attention_norm", "attn_norm", Join::Whole),
    ("ffn_norm", "ffn_norm", Join::Whole),
];

/// What a folder holds.
///
/// # Errors
/// If it is no such model, or its checkpoints don't fit together.
pub(super) fn open(folder: &Path) -> Result<Model> {
    let path = folder.join("params.json");
    let fault = |what: String| Error::Source { path: folder.into(), what };
    let params = Object::open(&path)?.ok_or_else(|| fault("it has no params.json".into()))?;
    let parts = checkpoints(folder)?.iter().map(|path| checkpoint::tensors(path)).collect::<Result<Vec<_>>>()?;
    let first = parts.first().ok_or_else(|| fault("it has no consolidated.00.pth".into()))?;
    let sizes = Sizes::read(&params)?;
    let n_embd = params.count("dim")? as usize;
    all_parts(folder, &parts, sizes)?;
    let mut tensors = Vec::new();
    for name in first.names() {
        if let Some((target, join)) = target(name, n_embd, first).ok_or_else(|| unknown(&first.files, name))? {
            tensors.push(joined(target, name, join, &parts)?);
        }
    }
    let shape_of = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        let shape = tensor.map(|tensor| &tensor.shape).filter(|shape| shape.len() == 2);
        shape.ok_or_else(|| Error::MissingTensor { tensor: name.into() })
    };
    let (table, up) = (shape_of("token_embd.weight")?, shape_of("blk.0.ffn_up.weight")?);
    if params.get("vocab_size").is_some_and(|n| n.as_i64() != Some(-1) && n.as_u64() != Some(table[0] as u64)) {
        return Err(params.bad("vocab_size", &format!("-1 or the {} rows of the embedding table", table[0])));
    }
    if params.opt_bool("use_scaled_rope")? == Some(true) {
        return Err(Error::Unconvertible {
            path,
            what: "`use_scaled_rope` is true, and nothing says by how much".into(),
            hint: HUGGING_FACE.into(),
        });
    }
    let mut metadata = keys(&params, sizes, table[0], up[0])?;
    metadata.extend(vocab::of_model(&tokenizer(folder), table[0])?);
    let files = parts.into_iter().flat_map(|part| part.files).collect();
    Ok(Model { arch: "llama", metadata, tensors, files, notes: notes(&params)? })
}

fn checkpoint_name(i: usize) -> String {
    format!("consolidated.{i:02}.pth")
}

/// `consolidated.00.pth` and those that follow.
///
/// # Errors
/// If there is one without those before it.
fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths: Vec<_> = (0..MAX_CHECKPOINTS).map(|i| folder.join(checkpoint_name(i))).collect();
    let last = paths.iter().rposition(|path| path.is_file());
    let n = last.map_or(0, |last| last + 1);
    match paths[..n].iter().position(|path| !path.is_file()) {
        Some(missing) => Err(incomplete(folder, missing, "each checkpoint has a slice of every matrix")),
        None => Ok(paths.into_iter().take(n).collect()),
    }
}

fn incomplete(folder: &Path, missing: usize, why: &str) -> Error {
    Error::Unconvertible {
        path: folder.into(),
        what: format!("{} is missing: {why}", checkpoint_name(missing)),
        hint: "fetch the rest of the folder".into(),
    }
}

/// Fails if the slices in `parts` do not make up a matrix, or one has a tensor that the first has not.
fn all_parts(folder: &Path, parts: &[Tensors], sizes: Sizes) -> Result<()> {
    for part in parts {
        if let Some(name) = part.names().into_iter().find(|name| parts[0].get(name).is_none()) {
            return Err(Error::Source {
                path: part.files.first().cloned().unwrap_or_default(),
                what: format!("it has a tensor `{name}`, which the first checkpoint has not"),
            });
        }
    }
    let name = "layers.0.attention.wq.weight";
    let Some(&slice) = parts[0].get(name).and_then(|tensor| tensor.shape.first()) else { return Ok(()) };
    let (n_rows, found) = (sizes.n_head as usize * sizes.head_dim as usize, slice * parts.len());
    match n_rows > found {
        true => Err(incomplete(
            folder,
            parts.len(),
            &format!("by params.json `{name}` has {n_rows} rows, and the checkpoints that there are have {found}"),
        )),
        false => Ok(()),
    }
}

/// Notes what Mistral's models have and files of the family have not.
fn notes(params: &Object) -> Result<Vec<String>> {
    Ok(params.opt_count("sliding_window")?.map(lost_window).into_iter().collect())
}

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    n_head: u32,
    head_dim: u32,
}

impl Sizes {
    fn read(params: &Object) -> Result<Self> {
        let n_head = params.count("n_heads")?;
        let head_dim = match params.get("head_dim") {
            Some(_) => params.count("head_dim")?,
            None => params.count("dim")? / n_head,
        };
        Ok(Self { n_head, head_dim })
    }
}

/// It came in the folder that has those of all sizes.
fn tokenizer(folder: &Path) -> PathBuf {
    let own = folder.join("tokenizer.model");
    let above = folder.join("..").join("tokenizer.model");
    if !own.exists() && above.exists() { above } else { own }
}

fn keys(params: &Object, sizes: Sizes, n_vocab: usize, n_ff: usize) -> Result<Vec<(String, Value)>> {
    let (n_embd, Sizes { n_head, head_dim }) = (params.count("dim")?, sizes);
    let eps = params
        .opt_f32("norm_eps")?
        .filter(|&eps| eps > 0.0)
        .ok_or_else(|| params.bad("norm_eps", "a number above 0"))?;
    let base = params.opt_f32("rope_theta")?;
    // Nothing says how long the contexts were. The second generation can be told by its epsilon, code models by their base.
    let n_ctx = match base {
        Some(base) if base >= 1e6 => 16_384_u32,
        _ if eps > 5e-6 => 4096,
        _ => 2048,
    };
    let count = |n: usize| u32::try_from(n).map_err(|_| params.bad("dim", "the sizes of a model"));
    let mut keys: Vec<(&str, Value)> = vec![
        ("vocab_size", count(n_vocab)?.into()),
        ("context_length", n_ctx.into()),
        ("embedding_length", n_embd.into()),
        ("block_count", params.count("n_layers")?.into()),
        ("feed_forward_length", count(n_ff)?.into()),
        ("rope.dimension_count", head_dim.into()),
        ("attention.head_count", n_head.into()),
        ("attention.head_count_kv", params.opt_count("n_kv_heads")?.unwrap_or(n_head).into()),
        ("attention.layer_norm_rms_epsilon", eps.into()),
    ];
    if head_dim.checked_mul(n_head) != Some(n_embd) {
        keys.extend([("attention.key_length", head_dim.into()), ("attention.value_length", head_dim.into())]);
    }
    keys.extend(base.map(|base| ("rope.freq_base", base.into())));
    Ok(keys.into_iter().map(|(key, value)| (format!("llama.{key}"), value)).collect())
}

/// GGUF's name of a tensor, and how its slices are joined; `Some(None)` if GGUF does without it, `None` if it is unknown.
fn target(name: &str, n_embd: usize, first: &Tensors) -> Option<Option<(String, Join)>> {
    let module = match name.strip_suffix(".weight") {
        None => return (name == "rope.freqs").then_some(None),
        Some(module) => module,
    };
    // The first generations cut the table by columns, the third by rows.
    let has_all_columns = first.get(name).is_some_and(|tensor| tensor.shape.last() == Some(&n_embd));
    let (module, join) = match module {
        "tok_embeddings" if has_all_columns => ("token_embd".into(), Join::Rows),
        "tok_embeddings" => ("token_embd".into(), Join::Columns),
        "norm" => ("output_norm".into(), Join::Whole),
        "output" => ("output".into(), Join::Rows),
        _ => {
            let (layer, module) = module.strip_prefix("layers.")?.split_once('.')?;
            let (_, ours, join) = MODULES.iter().find(|(theirs, ..)| *theirs == module)?;
            (format!("blk.{}.{ours}", layer.parse::<usize>().ok()?), *join)
        }
    };
    Some(Some((format!("{module}.weight"), join)))
}

/// The tensor that slices of it make.
fn joined(target: String, name: &str, join: Join, parts: &[Tensors]) -> Result<Made> {
    let missing = || Error::MissingTensor { tensor: name.into() };
    let slices = parts.iter().map(|part| part.get(name).ok_or_else(missing)).collect::<Result<Vec<_>>>()?;
    let shape = slices[0].shape.clone();
    if let Some(odd) = slices.iter().find(|slice| slice.shape != shape) {
        return Err(Error::TensorShape { tensor: name.into(), expected: shape, found: odd.shape.clone() });
    }
    let mut rows = slices.iter().map(|slice| slice.rows(name)).collect::<Result<Vec<_>>>()?;
    let from = rows[0].weight.format.name;
    let (rows, shape): (Box<dyn Rows>, _) = match (join, &shape[..]) {
        (Join::Whole, _) => (Box::new(rows.swap_remove(0)), shape),
        (_, [_, _]) if rows.len() == 1 => (Box::new(rows.swap_remove(0)), shape),
        (Join::Rows, &[m, k]) => (Box::new(Stacked { parts: rows, n_rows: m }), vec![parts.len() * m, k]),
        (Join::Columns, &[m, k]) => (Box::new(SideBySide { parts: rows, n_columns: k }), vec![m, parts.len() * k]),
        _ => return Err(Error::TensorShape { tensor: name.into(), expected: vec![1, 1], found: shape }),
    };
    Ok(Made { name: target, shape, content: Content::Numbers(rows), from })
}

fn unknown(files: &[PathBuf], name: &str) -> Error {
    Error::Source {
        path: files.first().cloned().unwrap_or_default(),
        what: format!("tensor `{name}` is none that Llama models have"),
    }
}
