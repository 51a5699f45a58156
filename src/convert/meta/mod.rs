//! Folders as Meta published the first Llamas: params.json, tokenizer.model, and checkpoints that each hold a slice of every
//! matrix, since the model ran on as many GPUs.

mod checkpoint;
mod pickle;

use std::path::{Path, PathBuf};

use super::json::Object;
use super::rows::{Rows, SideBySide, Stacked};
use super::source::{Content, Made, Model};
use super::tensors::Tensors;
use super::vocab;
use crate::error::{Error, Result};
use crate::gguf::Value;

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
    let parts = checkpoints(folder).iter().map(|path| checkpoint::tensors(path)).collect::<Result<Vec<_>>>()?;
    let first = parts.first().ok_or_else(|| fault("it has no consolidated.00.pth".into()))?;
    let n_embd = params.count("dim")? as usize;
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
    let mut metadata = keys(&params, table[0], up[0])?;
    metadata.extend(vocab::of_model(&tokenizer(folder), table[0])?);
    let files = parts.into_iter().flat_map(|part| part.files).collect();
    Ok(Model { arch: "llama", metadata, tensors, files })
}

/// `consolidated.00.pth` and those that follow.
fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let paths = (0..100).map(|i| folder.join(format!("consolidated.{i:02}.pth")));
    paths.take_while(|path| path.is_file()).collect()
}

/// It came in the folder that has those of all sizes.
fn tokenizer(folder: &Path) -> PathBuf {
    let own = folder.join("tokenizer.model");
    let above = folder.join("..").join("tokenizer.model");
    if !own.exists() && above.exists() { above } else { own }
}

fn keys(params: &Object, n_vocab: usize, n_ff: usize) -> Result<Vec<(String, Value)>> {
    let (n_embd, n_head) = (params.count("dim")?, params.count("n_heads")?);
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
        ("rope.dimension_count", (n_embd / n_head).into()),
        ("attention.head_count", n_head.into()),
        ("attention.head_count_kv", params.opt_count("n_kv_heads")?.unwrap_or(n_head).into()),
        ("attention.layer_norm_rms_epsilon", eps.into()),
    ];
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
