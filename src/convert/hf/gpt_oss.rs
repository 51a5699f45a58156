//! The experts of gpt-oss, which has those of a layer in one tensor: rows of gate and up take turns, and what is not packed in
//! 4-bit floats lies with its rows as columns.

use super::mxfp4;
use crate::convert::rows::{Picked, Reordered, Rows, Transposed};
use crate::convert::source::{Content, Made};
use crate::convert::tensors::Tensor;
use crate::error::{Error, Result};

/// ggml's number of MXFP4.
const MXFP4: u32 = 39;

/// What `part` of the experts of a layer becomes; `other` finds the part with another name.
///
/// # Errors
/// If there is no such part, one is missing, or a shape makes no sense.
pub(super) fn experts<'a>(
    block: &str,
    part: &str,
    tensor: &Tensor,
    other: impl Fn(&str) -> Option<&'a Tensor>,
) -> Result<Vec<Made>> {
    let name = |which: &str, kind: &str| format!("{block}ffn_{which}_exps.{kind}");
    let packed = |which: &str, scales: &str, first, step| -> Result<Made> {
        let name = name(which, "weight");
        let scales = other(scales).ok_or_else(|| Error::MissingTensor { tensor: scales.into() })?;
        let (rows, shape) = mxfp4::Experts::new(&name, tensor, scales, first, step)?;
        Ok(Made { name, shape, content: Content::Packed(MXFP4, Box::new(rows)), from: "MXFP4" })
    };
    match part {
        // They come with their blocks.
        "gate_up_proj_scales" | "down_proj_scales" => Ok(Vec::new()),
        "gate_up_proj_blocks" => {
            Ok(vec![packed("gate", "gate_up_proj_scales", 0, 2)?, packed("up", "gate_up_proj_scales", 1, 2)?])
        }
        "down_proj_blocks" => Ok(vec![packed("down", "down_proj_scales", 0, 1)?]),
        "gate_up_proj" => {
            Ok(vec![transposed(name("gate", "weight"), tensor, 0, 2)?, transposed(name("up", "weight"), tensor, 1, 2)?])
        }
        "down_proj" => Ok(vec![transposed(name("down", "weight"), tensor, 0, 1)?]),
        "gate_up_proj_bias" => {
            Ok(vec![bias(name("gate", "bias"), tensor, 0, 2)?, bias(name("up", "bias"), tensor, 1, 2)?])
        }
        "down_proj_bias" => Ok(vec![bias(name("down", "bias"), tensor, 0, 1)?]),
        _ => Err(Error::MissingTensor { tensor: format!("{block}{part}") }),
    }
}

/// Of the columns of `[E, K, M]` every `step`-th from `first` on, as rows: `[E, M / step, K]`.
fn transposed(name: String, tensor: &Tensor, first: usize, step: usize) -> Result<Made> {
    let stored = tensor.rows(&name)?;
    let from = stored.weight.format.name;
    match tensor.shape[..] {
        [n_expert, k, m] if m.is_multiple_of(step) => {
            let rows = Transposed { stored, dims: [k, m] };
            let content = Content::Numbers(Box::new(Picked { rows, of: Box::new(move |row| row * step + first) }));
            Ok(Made { name, shape: vec![n_expert, m / step, k], content, from })
        }
        _ => Err(Error::TensorShape { tensor: name, expected: vec![1, 1, step], found: tensor.shape.clone() }),
    }
}

/// Of the numbers of each row of `[E, M]` every `step`-th from `first` on.
fn bias(name: String, tensor: &Tensor, first: usize, step: usize) -> Result<Made> {
    let rows = tensor.rows(&name)?;
    let from = rows.weight.format.name;
    match tensor.shape[..] {
        [n_expert, m] if m.is_multiple_of(step) => {
            let rows: Box<dyn Rows> = Box::new(Reordered { rows, of: Box::new(move |i| i * step + first), len: m });
            Ok(Made { name, shape: vec![n_expert, m / step], content: Content::Numbers(rows), from })
        }
        _ => Err(Error::TensorShape { tensor: name, expected: vec![1, step], found: tensor.shape.clone() }),
    }
}
