//! Text from a stream of tokens, as soon as it is whole.
//!
//! A token may end in the middle of a character. What is shown must not: the bytes wait for the rest. Bytes that can't
//! become a character any more turn into U+FFFD at once, by the same rule as [`String::from_utf8_lossy`], so that the parts
//! together are exactly the lossy text of all bytes.

use std::sync::Arc;

use super::Tokenizer;
use crate::Result;

/// Turns tokens into text one by one.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    /// The beginning of a character: 0 to 3 bytes.
    pending: Vec<u8>,
    /// What the last call gave.
    text: String,
    /// The text has not begun, and its first space is not part of it.
    drop_space: bool,
}

impl Detokenizer {
    /// For tokens that continue a text, such as what a model says after a prompt.
    pub fn new(tokenizer: Arc<dyn Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new(), text: String::new(), drop_space: false }
    }

    /// For tokens from the beginning of a text: the space that encoding put in front of it is taken away, if this
    /// vocabulary has such a rule.
    pub fn at_start(tokenizer: Arc<dyn Tokenizer>) -> Self {
        let drop_space = tokenizer.special().space_prefix;
        Self { drop_space, ..Self::new(tokenizer) }
    }

    /// Takes a token and gives the text that it completes: whole characters, perhaps none.
    ///
    /// # Errors
    /// When `id` is not in the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<&str> {
        self.tokenizer.check_id(id)?;
        self.text.clear();
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.drop_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drop_space = false;
        }
        self.pending.extend_from_slice(bytes);
        let complete = append_complete(&self.pending, &mut self.text);
        self.pending.drain(..complete);
        Ok(&self.text)
    }

    /// Ends the text: a character that was begun and never completed becomes U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
        &self.text
    }
}

/// Appends what is decided of `bytes` to `text`, and gives its length; the rest is the beginning of a character.
fn append_complete(bytes: &[u8], text: &mut String) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                return bytes.len();
            }
            Err(e) => {
                let (valid, _) = bytes[at..].split_at(e.valid_up_to());
                text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                at += valid.len();
                let Some(wrong) = e.error_len() else { return at };
                text.push(char::REPLACEMENT_CHARACTER);
                at += wrong;
            }
        }
    }
}
