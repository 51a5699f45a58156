//! From the tensors of a folder to those of a GGUF file: names, order, and what is done to rows on the way.

use std::collections::BTreeMap;

use super::family::Family;
use super::gpt_oss;
use crate::convert::json::Object;
use crate::convert::rows::{Picked, Reordered, Rows, Shifted, Stacked};
use crate::convert::source::{Content, Made};
use crate::convert::tensors::{Tensor, Tensors};
use crate::error::{Error, Result};

/// Parts of names of tensors that GGUF files of language models do without.
const LEFT_OUT: &[&str] = &[
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "visual.",
];

/// Where a tensor goes.
enum Target {
    /// Nowhere.
    Nowhere,
    /// It becomes this one.
    Tensor(String),
    /// It becomes a part of this one, for one of the experts.
    Expert { tensor: String, expert: usize },
    /// It has these two of all experts, each half of the rows of an expert.
    Halves { gate: String, up: String },
    /// It is one of what gpt-oss has of all experts of a layer.
    GptOss { block: String, part: String },
}

/// How a family's tensors are laid out.
pub(super) struct Layout {
    family: &'static Family,
    n_head: usize,
    n_head_kv: usize,
    tied: bool,
    /// Whether config.json says so.
    is_said: bool,
}

impl Layout {
    pub(super) fn new(family: &'static Family, c: &Object) -> Result<Self> {
        let n_head = c.count("num_attention_heads")? as usize;
        let n_head_kv = c.opt_count("num_key_value_heads")?.map_or(n_head, |n| n as usize);
        let said = c.opt_bool("tie_word_embeddings")?;
        Ok(Self { family, n_head, n_head_kv, tied: said.unwrap_or(family.tied), is_said: said.is_some() })
    }

    /// The tensors of the file: the embedding table, the layers, the rest.
    ///
    /// # Errors
    /// If one has no place, an expert is missing, or a shape makes no sense.
    pub(super) fn tensors(&self, tensors: &Tensors) -> Result<Vec<Made>> {
        let mut made = Vec::new();
        let mut experts: BTreeMap<String, BTreeMap<usize, &Tensor>> = BTreeMap::new();
        for name in tensors.names() {
            let Some(tensor) = tensors.get(name) else { continue };
            match self.target(name).ok_or_else(|| unknown(name, self.family, tensors))? {
                Target::Nowhere => {}
                Target::Tensor(target) => made.push(self.tensor(target, tensor)?),
                Target::Expert { tensor: target, expert } => {
                    experts.entry(target).or_default().insert(expert, tensor);
                }
                Target::Halves { gate, up } => made.extend(halves(gate, up, tensor)?),
                Target::GptOss { block, part } => {
                    made.extend(gpt_oss::experts(&block, &part, tensor, |part_name| {
                        tensors.get(&format!("{}{part_name}", name.strip_suffix(&part).unwrap_or(name)))
                    })?);
                }
            }
        }
        if !self.tied && self.is_said && made.iter().all(|tensor| tensor.name != "output.weight") {
            return Err(Error::MissingTensor { tensor: "lm_head.weight".into() });
        }
        for (name, parts) in experts {
            made.push(stacked(name, &parts)?);
        }
        made.sort_by_key(|tensor| place(&tensor.name));
        Ok(made)
    }

    fn target(&self, name: &str) -> Option<Target> {
        if LEFT_OUT.iter().any(|part| name.contains(part)) {
            return Some(Target::Nowhere);
        }
        let prefixes = ["model.language_model.", "language_model.model.", "language_model.", "model."];
        let core = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        match core {
            "embed_tokens.weight" => return Some(Target::Tensor("token_embd.weight".into())),
            "norm.weight" => return Some(Target::Tensor("output_norm.weight".into())),
            "lm_head.weight" if self.tied => return Some(Target::Nowhere),
            "lm_head.weight" => return Some(Target::Tensor("output.weight".into())),
            _ => {}
        }
        let (layer, rest) = core.strip_prefix("layers.")?.split_once('.')?;
        let block = format!("blk.{}.", layer.parse::<usize>().ok()?);
        let experts = ["mlp.experts.", "block_sparse_moe.experts."];
        if let Some(rest) = experts.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
            if self.family.arch == "gpt-oss" {
                return Some(Target::GptOss { block, part: rest.into() });
            }
            return expert(&block, rest);
        }
        // A vector for each head is a weight of its own.
        let (module, kind) =
            rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias")).unwrap_or((rest, "weight"));
        Some(Target::Tensor(format!("{block}{}.{kind}", self.family.module(module)?)))
    }

    fn tensor(&self, name: String, tensor: &Tensor) -> Result<Made> {
        let rows = tensor.rows(&name)?;
        let from = rows.weight.format.name;
        let n_head = match name.rsplit_once('.').and_then(|(module, _)| module.rsplit_once('.')) {
            Some((_, "attn_q")) if self.family.permuted => Some(self.n_head),
            Some((_, "attn_k")) if self.family.permuted => Some(self.n_head_kv),
            _ => None,
        };
        let shape = tensor.shape.clone();
        let rows: Box<dyn Rows> = match n_head {
            Some(n_head) => side_by_side(&name, rows, &shape, n_head)?,
            None if self.family.norm_shift != 0.0 && name.ends_with("norm.weight") => {
                Box::new(Shifted { rows, by: self.family.norm_shift })
            }
            None => Box::new(rows),
        };
        Ok(Made { name, shape, content: Content::Numbers(rows), from })
    }
}

/// What an expert's tensor `E.MODULE.weight`, or one of all experts, becomes.
fn expert(block: &str, rest: &str) -> Option<Target> {
    let tensor = |which: &str| format!("{block}ffn_{which}_exps.weight");
    match rest {
        "gate_up_proj" => return Some(Target::Halves { gate: tensor("gate"), up: tensor("up") }),
        "down_proj" => return Some(Target::Tensor(tensor("down"))),
        _ => {}
    }
    let (expert, module) = rest.strip_suffix(".weight")?.split_once('.')?;
    let which = match module {
        "gate_proj" | "w1" => "gate",
        "down_proj" | "w2" => "down",
        "up_proj" | "w3" => "up",
        _ => return None,
    };
    Some(Target::Expert { tensor: tensor(which), expert: expert.parse().ok()? })
}

/// Rows of q or k, of which those that turn together are half a head apart, as pairs side by side.
fn side_by_side(name: &str, rows: impl Rows + 'static, shape: &[usize], n_head: usize) -> Result<Box<dyn Rows>> {
    let n_rows = shape[0];
    if n_head == 0 || !n_rows.is_multiple_of(2 * n_head) {
        let expected = shape.iter().skip(1).copied();
        let expected = std::iter::once(n_rows.next_multiple_of(2 * n_head.max(1))).chain(expected).collect();
        return Err(Error::TensorShape { tensor: name.into(), expected, found: shape.into() });
    }
    let head_dim = n_rows / n_head;
    let of = move |row: usize| {
        let (head, i) = (row / head_dim, row % head_dim);
        head * head_dim + i % 2 * (head_dim / 2) + i / 2
    };
    Ok(match shape.len() {
        1 => Box::new(Reordered { rows, of: Box::new(of), len: n_rows }),
        _ => Box::new(Picked { rows, of: Box::new(of) }),
    })
}

/// One tensor `[E, M, K]` of those of the experts.
fn stacked(name: String, parts: &BTreeMap<usize, &Tensor>) -> Result<Made> {
    let missing = (0..).zip(parts.keys()).find(|(i, expert)| i != *expert).map(|(i, _)| i);
    if let Some(expert) = missing {
        return Err(Error::MissingTensor { tensor: format!("{name}, expert {expert}") });
    }
    let shapes: Vec<&Vec<usize>> = parts.values().map(|tensor| &tensor.shape).collect();
    let [n_rows, k] = match &shapes[0][..] {
        &[n_rows, k] if shapes.iter().all(|shape| *shape == shapes[0]) => [n_rows, k],
        _ => {
            let odd = shapes.iter().find(|shape| **shape != shapes[0]).unwrap_or(&shapes[0]);
            return Err(Error::TensorShape { tensor: name, expected: shapes[0].clone(), found: (*odd).clone() });
        }
    };
    let rows = parts.values().map(|tensor| tensor.rows(&name)).collect::<Result<Vec<_>>>()?;
    let from = rows[0].weight.format.name;
    let content = Content::Numbers(Box::new(Stacked { parts: rows, n_rows }));
    Ok(Made { name, shape: vec![parts.len(), n_rows, k], content, from })
}

/// The two tensors `[E, F, K]` that `[E, 2F, K]` has one below the other.
fn halves(gate: String, up: String, tensor: &Tensor) -> Result<[Made; 2]> {
    let &[n_expert, n_rows, k] = &tensor.shape[..] else {
        return Err(Error::TensorShape { tensor: gate, expected: vec![1, 2, 1], found: tensor.shape.clone() });
    };
    let half = n_rows / 2;
    if !n_rows.is_multiple_of(2) {
        return Err(Error::TensorShape {
            tensor: gate,
            expected: vec![n_expert, 2 * half + 2, k],
            found: tensor.shape.clone(),
        });
    }
    let made = |name: String, first: usize| -> Result<Made> {
        let rows = tensor.rows(&name)?;
        let from = rows.weight.format.name;
        let of = move |row: usize| row / half * n_rows + first + row % half;
        let content = Content::Numbers(Box::new(Picked { rows, of: Box::new(of) }));
        Ok(Made { name, shape: vec![n_expert, half, k], content, from })
    };
    Ok([made(gate, 0)?, made(up, half)?])
}

/// Where a tensor stands in a file: before the layers, in one, or after them.
fn place(name: &str) -> (usize, usize, String) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|layer| layer.parse().ok());
    match layer {
        Some(layer) => (1, layer, name.into()),
        None if name == "token_embd.weight" => (0, 0, name.into()),
        None => (2, 0, name.into()),
    }
}

fn unknown(name: &str, family: &Family, tensors: &Tensors) -> Error {
    Error::Source {
        path: tensors.files.first().cloned().unwrap_or_default(),
        what: format!("tensor `{name}` is none that {} models have", family.arch),
    }
}
