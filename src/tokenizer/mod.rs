//! Text to token ids and back, built from nothing but the metadata of a GGUF file.
//!
//! There are two kinds of vocabulary: BPE (`bpe`: GPT-2, Llama 3, Qwen, SmolLM), whose words are cut in as many ways as there
//! are families of models (`schemes`), and SentencePiece (`spm`: Llama 2, Gemma). They differ in how a piece of text starts (bytes or characters) and in what decides which neighbours
//! are joined first (a list of merges or the scores of tokens); the joining itself (`merge`), the checked `vocab`, the
//! special tokens found literally in text (`special`) and the way back to text ([`Detokenizer`]) are one.
//!
//! Whatever the file says is checked once, when the tokenizer is built, so that encoding can't fail later.

mod bpe;
mod detokenizer;
mod merge;
mod pretokenizer;
mod schemes;
mod source;
mod special;
mod spm;
mod vocab;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

pub use detokenizer::Detokenizer;
pub use source::VocabSource;
pub use special::SpecialTokens;

use crate::gguf::Gguf;
use crate::{Error, Result};
use vocab::Vocab;

/// What turns text into token ids, and ids into bytes of text.
pub trait Tokenizer: Debug + Send + Sync {
    /// The checked vocabulary, for the provided methods.
    #[doc(hidden)]
    fn vocab(&self) -> &Vocab;

    /// Ids of `text`, without BOS and EOS.
    ///
    /// With `parse_special` the names of control tokens in the text (`<|im_start|>`) become these tokens; without, they
    /// are text like any other, as it must be for what users write.
    ///
    /// # Errors
    /// When the text is longer than 1 GiB.
    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>>;

    /// Ids of a prompt: special tokens parsed, BOS in front and EOS behind where the file wants them and the text does not
    /// have them already.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let special = self.special();
        let mut ids = self.with_bos(self.encode(text, true)?);
        if let Some(eos) = special.eos.filter(|_| special.add_eos)
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// These ids with BOS in front, where the file wants it and they do not have it already.
    #[doc(hidden)]
    fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let special = self.special();
        if let Some(bos) = special.bos.filter(|_| special.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    /// Where the first name of a token that steers the model begins in `text`.
    #[doc(hidden)]
    fn find_special(&self, text: &str) -> Option<usize> {
        let vocab = self.vocab();
        vocab.literals().find(text).find(|&(_, id)| vocab.steers(id)).map(|(at, _)| at)
    }

    /// The text of a whole sequence of ids, the inverse of [`Tokenizer::encode`]; invalid UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            self.check_id(id)?;
            bytes.extend_from_slice(self.token_bytes(id));
        }
        let added = usize::from(self.special().space_prefix && bytes.first() == Some(&b' '));
        Ok(String::from_utf8_lossy(&bytes[added..]).into_owned())
    }

    /// Number of tokens; ids are below it.
    fn n_vocab(&self) -> usize {
        self.vocab().len()
    }

    /// The bytes of text that a token stands for: perhaps a part of a character, none for control tokens and for ids that
    /// are not in the vocabulary.
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab().bytes(id)
    }

    /// The name of a token as the file spells it (`Ġthe`, `▁the`, `<0x0A>`, `<|im_end|>`); empty for ids that are not in the
    /// vocabulary.
    fn token_text(&self, id: u32) -> &str {
        self.vocab().name(id)
    }

    /// The id of the token that the file spells `text`.
    fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab().id(text.as_bytes())
    }

    /// Whether the token steers the model and has no text.
    fn is_control(&self, id: u32) -> bool {
        self.vocab().is_control(id)
    }

    /// Whether the model says with this token that it has finished (end of text, of a turn, of a message).
    fn is_eog(&self, id: u32) -> bool {
        self.special().eog.binary_search(&id).is_ok()
    }

    /// The tokens with a meaning of their own, and the file's rules for them.
    fn special(&self) -> &SpecialTokens {
        self.vocab().special()
    }

    /// That `id` is in the vocabulary.
    ///
    /// # Errors
    /// When it is not.
    fn check_id(&self, id: u32) -> Result<()> {
        if (id as usize) < self.n_vocab() {
            return Ok(());
        }
        Err(invalid(format!("token id {id} is not in the vocabulary of {} tokens", self.n_vocab())))
    }
}

/// Kinds of vocabulary (`tokenizer.ggml.model`) that can be built.
const MODELS: &[&str] = &["gemma4", "gpt2", "llama"];

/// The tokenizer that a file describes.
///
/// # Errors
/// When metadata are missing or don't fit one another, or the kind of vocabulary or its pre-tokenizer isn't known.
pub fn from_gguf(gguf: &Gguf) -> Result<Arc<dyn Tokenizer>> {
    let arrays = source::Arrays::read(gguf.metadata())?;
    build(arrays.source(gguf.metadata())?)
}

/// The tokenizer of a vocabulary, wherever that came from.
///
/// # Errors
/// As [`from_gguf`].
pub fn build(source: VocabSource<'_>) -> Result<Arc<dyn Tokenizer>> {
    match source.model {
        "gpt2" | "gemma4" => Ok(Arc::new(bpe::Bpe::new(&source)?)),
        "llama" => Ok(Arc::new(spm::Spm::new(&source)?)),
        other => {
            Err(Error::UnsupportedTokenizer { part: "tokenizer model", found: other.into(), known: MODELS.to_vec() })
        }
    }
}

/// Longest text for one call: positions and lengths are `u32`, with room for the growth of escaped spaces.
const MAX_TEXT_BYTES: usize = 1 << 30;

fn check_text(text: &str) -> Result<()> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(invalid(format!("text of {} bytes is longer than {MAX_TEXT_BYTES}", text.len())))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::Tokenizer { what: what.into() }
}

/// A name from the file for a message: readable and short, whatever it holds.
fn quoted(name: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text = String::from_utf8_lossy(&name[..name.len().min(SHOWN)]);
    let rest = if name.len() > SHOWN { Cow::from(format!("… ({} bytes)", name.len())) } else { "".into() };
    format!("{text:?}{rest}")
}
