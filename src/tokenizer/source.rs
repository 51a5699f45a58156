//! What a file says about its tokenizer, as it says it: the input of the builders.
//!
//! Token names and merges are borrowed, since there are hundreds of thousands of them and they lie in the mapped file.

use crate::Result;
use crate::gguf::{Metadata, StringArray};

/// A vocabulary with its rules, unchecked. Named after the keys `tokenizer.ggml.…`.
#[derive(Debug, Clone, Default)]
pub struct VocabSource<'a> {
    /// Kind of vocabulary: `gpt2`, `gemma4` or `llama`.
    pub model: &'a str,
    /// What the model calls itself (`general.name`): of some, tokens take white space with them, and files don't say so.
    pub model_name: Option<&'a str>,
    /// Name of the scheme that cuts text into words (BPE only).
    pub pre: Option<&'a str>,
    /// The tokens' names, by id.
    pub tokens: Vec<&'a [u8]>,
    /// The tokens' types, by id; all normal if absent.
    pub token_type: Option<Vec<i32>>,
    /// The tokens' scores, by id (`llama` only).
    pub scores: Option<Vec<f32>>,
    /// Two names with a space between, in the order of joining (BPE only).
    pub merges: Option<Vec<&'a [u8]>>,
    /// Id of the token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Id of the token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Id of the token that ends a turn.
    pub eot_token_id: Option<u32>,
    /// Id of the token that ends a message that is not the end of a turn.
    pub eom_token_id: Option<u32>,
    /// Id of the token for what can't be said.
    pub unknown_token_id: Option<u32>,
    /// Whether prompts begin with BOS.
    pub add_bos_token: Option<bool>,
    /// Whether prompts end with EOS.
    pub add_eos_token: Option<bool>,
    /// Whether text gets a space in front (`llama` only).
    pub add_space_prefix: Option<bool>,
}

/// The arrays of strings of a file, for a [`VocabSource`] to borrow from.
pub(super) struct Arrays {
    tokens: StringArray,
    merges: Option<StringArray>,
}

impl Arrays {
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        Ok(Self {
            tokens: metadata.strings("tokenizer.ggml.tokens")?,
            merges: metadata.opt_strings("tokenizer.ggml.merges")?,
        })
    }

    pub(super) fn source<'a>(&'a self, metadata: &'a Metadata) -> Result<VocabSource<'a>> {
        Ok(VocabSource {
            model: metadata.str("tokenizer.ggml.model")?,
            model_name: metadata.opt_str("general.name")?,
            pre: metadata.opt_str("tokenizer.ggml.pre")?,
            tokens: self.tokens.iter().collect(),
            token_type: metadata.opt_i32s("tokenizer.ggml.token_type")?,
            scores: metadata.opt_f32s("tokenizer.ggml.scores")?,
            merges: self.merges.as_ref().map(|m| m.iter().collect()),
            bos_token_id: metadata.opt_u32("tokenizer.ggml.bos_token_id")?,
            eos_token_id: metadata.opt_u32("tokenizer.ggml.eos_token_id")?,
            eot_token_id: metadata.opt_u32("tokenizer.ggml.eot_token_id")?,
            eom_token_id: metadata.opt_u32("tokenizer.ggml.eom_token_id")?,
            unknown_token_id: metadata.opt_u32("tokenizer.ggml.unknown_token_id")?,
            add_bos_token: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
            add_eos_token: metadata.opt_bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
        })
    }
}
