//! The hyper-parameters that all architectures have. What only one of them has, its own file reads.

use super::Architecture;
use super::keys::{Keys, MAX_WIDTH};
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// Sizes of a model, all of them checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// GGUF's name of the architecture.
    pub arch: &'static str,
    /// What the file calls the model, if it does.
    pub name: Option<String>,
    /// Transformer layers.
    pub n_layer: usize,
    /// Width of the residual stream, D.
    pub n_embd: usize,
    /// Width of the feed-forward layer, F.
    pub n_ff: usize,
    /// Query heads, H.
    pub n_head: usize,
    /// Key and value heads, Hkv; divides `n_head`.
    pub n_head_kv: usize,
    /// Size of a head, Dh.
    pub head_dim: usize,
    /// Rows of the embedding table, V.
    pub n_vocab: usize,
    /// Positions that the model was trained on.
    pub n_ctx: usize,
    /// What RMSNorm adds to the mean of squares.
    pub rms_eps: f32,
}

impl Config {
    /// The hyper-parameters of a file.
    ///
    /// # Errors
    /// If its architecture is unknown, or a key is missing or makes no sense.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::read(&Keys::new(gguf, Architecture::of(gguf.metadata())?.name))
    }

    /// Reads and checks all of it.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let table = "token_embd.weight";
        let table = keys.source().shape(table).ok_or_else(|| Error::MissingTensor { tensor: table.into() })?;
        let n_embd = keys.count("embedding_length", MAX_WIDTH)?;
        let &[n_vocab, found] = table else {
            return Err(table_shape(table.to_vec(), n_embd));
        };
        if found != n_embd || n_vocab == 0 || n_vocab > MAX_WIDTH {
            return Err(table_shape(table.to_vec(), n_embd));
        }

        let n_head = keys.count("attention.head_count", MAX_WIDTH)?;
        let n_head_kv = keys.opt_count("attention.head_count_kv", n_head)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad("attention.head_count_kv", format!("a divisor of {n_head} heads"), n_head_kv));
        }
        let head_dim = match keys.opt_count("attention.key_length", MAX_WIDTH / n_head)? {
            Some(head_dim) => head_dim,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => return Err(keys.bad("attention.head_count", format!("a divisor of {n_embd}"), n_head)),
        };
        if let Some(value_len) = keys.opt_count("attention.value_length", MAX_WIDTH)?.filter(|&len| len != head_dim) {
            return Err(keys.bad("attention.value_length", format!("the key length, {head_dim}"), value_len));
        }
        Ok(Self {
            arch: keys.arch(),
            name: keys.source().metadata().opt_str("general.name")?.map(Into::into),
            // Every layer has tensors of its own, so this bounds the graph by the size of the file.
            n_layer: keys.count("block_count", keys.source().n_tensors())?,
            n_embd,
            n_ff: keys.count("feed_forward_length", MAX_WIDTH)?,
            n_head,
            n_head_kv,
            head_dim,
            n_vocab,
            n_ctx: keys.count("context_length", i32::MAX as usize)?,
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
        })
    }
}

fn table_shape(found: Vec<usize>, n_embd: usize) -> Error {
    let n_vocab = found.first().copied().unwrap_or(0).clamp(1, MAX_WIDTH);
    Error::TensorShape { tensor: "token_embd.weight".into(), expected: vec![n_vocab, n_embd], found }
}
