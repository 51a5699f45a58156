//! The vocabulary of a published model, and what GGUF files say about it.
//!
//! There are two kinds: byte-level BPE, described by tokenizer.json, and SentencePiece's, in a tokenizer.model of its own or
//! in a tokenizer.json that was made of one. Ids are those of the rows of the embedding table; rows without a token get one that
//! is never used.

mod json;
mod pre;
mod sentencepiece;
mod special;

use std::path::Path;

use super::json::Object;
use crate::error::{Error, Result};
use crate::gguf::Value;

/// GGUF's types of tokens.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Score of tokens that are not joined of others.
const NEVER: f32 = -1000.0;

/// Tokens by id, with their rules.
struct Vocab {
    /// GGUF's kind of vocabulary: `gpt2` or `llama`.
    model: &'static str,
    /// Name of the scheme that cuts text into words.
    pre: &'static str,
    tokens: Vec<Vec<u8>>,
    types: Vec<i32>,
    /// How early a token is joined (`llama`).
    scores: Option<Vec<f32>>,
    /// Two names with a space between, in the order of joining (`gpt2`).
    merges: Option<Vec<String>>,
    /// Whether text gets a space in front.
    space_prefix: Option<bool>,
    /// Ids that the vocabulary itself gives: key and id.
    ids: Vec<(&'static str, u32)>,
}

impl Vocab {
    /// One with `n_vocab` tokens that are never used.
    fn unused(model: &'static str, pre: &'static str, n_vocab: usize) -> Self {
        Self {
            model,
            pre,
            tokens: (0..n_vocab).map(|id| format!("[PAD{id}]").into_bytes()).collect(),
            types: vec![kind::UNUSED; n_vocab],
            scores: None,
            merges: None,
            space_prefix: None,
            ids: Vec::new(),
        }
    }

    /// Gives the id a token.
    ///
    /// # Errors
    /// If the embedding table has no such row.
    fn put(&mut self, path: &Path, id: usize, token: &[u8], kind: i32) -> Result<()> {
        let Some(slot) = self.tokens.get_mut(id) else {
            return Err(Error::Source {
                path: path.into(),
                what: format!(
                    "token {id} ({}) is beyond the {} rows of the embedding table",
                    String::from_utf8_lossy(token),
                    self.tokens.len()
                ),
            });
        };
        *slot = token.into();
        self.types[id] = kind;
        Ok(())
    }

    /// Takes over a token that was added to the vocabulary later.
    fn put_added(&mut self, path: &Path, id: usize, token: &str, special: bool) -> Result<()> {
        let kind = if special || looks_special(token) { kind::CONTROL } else { kind::USER_DEFINED };
        // SentencePiece writes spaces as `▁`; text is compared with added tokens before it is.
        let token = if kind == kind::USER_DEFINED { token.replace('▁', " ") } else { token.into() };
        self.put(path, id, token.as_bytes(), kind)?;
        if let Some(scores) = &mut self.scores {
            scores[id] = NEVER;
        }
        Ok(())
    }

    fn id_of(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|found| found == token.as_bytes()).and_then(|id| id.try_into().ok())
    }

    fn entries(self) -> Vec<(String, Value)> {
        let mut entries: Vec<(&str, Value)> = vec![
            ("model", self.model.into()),
            ("pre", self.pre.into()),
            ("tokens", self.tokens.as_slice().into()),
            ("token_type", self.types.as_slice().into()),
        ];
        entries.extend(self.scores.as_deref().map(|scores| ("scores", scores.into())));
        entries.extend(self.merges.as_deref().map(|merges| ("merges", merges.into())));
        entries.extend(self.space_prefix.map(|space_prefix| ("add_space_prefix", space_prefix.into())));
        entries.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
    }
}

/// Whether a token is for control though its file does not say so: some files forget it.
fn looks_special(token: &str) -> bool {
    let enclosed = |open, close| token.starts_with(open) && token.ends_with(close);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || enclosed("<|", "|>")
        || enclosed("<｜", "｜>")
        || enclosed("<unused", ">")
}

/// What a folder with a config.json says about its vocabulary of `n_vocab` tokens.
///
/// # Errors
/// If there is no vocabulary, or one of a kind that is not known.
pub(super) fn of_folder(folder: &Path, config: &Object, n_vocab: usize) -> Result<Vec<(String, Value)>> {
    let settings = Object::open(&folder.join("tokenizer_config.json"))?;
    let json_path = folder.join("tokenizer.json");
    let json = Object::open(&json_path)?;
    let model = folder.join("tokenizer.model");
    let mut vocab = match (&json, super::json::bytes(&model)?) {
        (Some(json), None) => json::vocab(json, &json_path, n_vocab)?,
        (Some(json), Some(_)) if json::is_byte_level(json)? => json::vocab(json, &json_path, n_vocab)?,
        (_, Some(bytes)) => sentencepiece::vocab(&bytes, &model, n_vocab)?,
        (None, None) => {
            return Err(Error::Source {
                path: folder.into(),
                what: "it has neither a tokenizer.json nor a tokenizer.model".into(),
            });
        }
    };
    special::added(&mut vocab, folder, json.as_ref().map(|json| (json, &*json_path)), settings.as_ref())?;
    let more = special::entries(&vocab, folder, config, json.as_ref(), settings.as_ref())?;
    Ok(vocab.entries().into_iter().chain(more).collect())
}

/// What a tokenizer.model alone says, for a vocabulary of `n_vocab` tokens.
///
/// # Errors
/// If it is not SentencePiece's.
pub(super) fn of_model(path: &Path, n_vocab: usize) -> Result<Vec<(String, Value)>> {
    let bytes = super::json::bytes(path)?.ok_or_else(|| Error::Source {
        path: path.into(),
        what: "there is no such file, which should have the vocabulary".into(),
    })?;
    let vocab = sentencepiece::vocab(&bytes, path, n_vocab)?;
    let ids = vocab.ids.iter().map(|&(key, id)| (special::key_of_id(key), id.into()));
    let ids: Vec<(String, Value)> = ids.collect();
    Ok(vocab.entries().into_iter().chain(ids).collect())
}
