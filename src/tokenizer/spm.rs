//! SentencePiece's BPE model: characters are joined where the result is a token, the one with the best score first.
//!
//! Spaces are written `▁` (U+2581) in the vocabulary. A character that is no token, and joined none, is said byte by byte
//! (`<0xE2>`). There is no cutting into words, and no list of merges: scores give the order.

use super::merge::{Chain, Joined, NONE};
use super::source::VocabSource;
use super::special::Fragment;
use super::vocab::{Rules, Vocab};
use super::{Tokenizer, check_text, invalid};
use crate::{Error, Result};

/// How the vocabulary writes a space.
const SPACE: &str = "\u{2581}";

/// What SentencePiece does where the file doesn't say.
const RULES: Rules =
    Rules { add_bos: true, space_prefix: Some(true), bos_eos_unk: [Some(1), Some(2), Some(0)], decode: decode_name };

/// A SentencePiece tokenizer (`tokenizer.ggml.model` = `llama`).
#[derive(Debug)]
pub(super) struct Spm {
    vocab: Vocab,
    /// The order of joining by id, best score first; equal scores are equal.
    ranks: Vec<u32>,
    /// What says each byte that is in no token.
    byte_ids: [u32; 256],
}

impl Spm {
    pub(super) fn new(source: &VocabSource<'_>) -> Result<Self> {
        let vocab = Vocab::new(source, &RULES)?;
        let ranks = read_ranks(source)?;
        let mut byte_ids = [NONE; 256];
        for (byte, id) in (0u8..=255).zip(&mut byte_ids) {
            *id = vocab
                .id(format!("<0x{byte:02X}>").as_bytes())
                .or_else(|| vocab.id(&[byte]))
                .or(vocab.special().unk)
                .ok_or_else(|| invalid(format!("there is no token for byte 0x{byte:02X}, and no unknown token")))?;
        }
        Ok(Self { vocab, ranks, byte_ids })
    }

    /// Encodes `text`, in which spaces are escaped.
    fn encode_text(&self, text: &str, chain: &mut Chain, ids: &mut Vec<u32>) {
        let token = |bytes: &[u8]| {
            // Most long candidates are no tokens: don't hash them.
            if bytes.len() <= self.vocab.max_name_len() { self.vocab.id(bytes) } else { None }
        };
        chain.clear();
        for (at, c) in text.char_indices() {
            let len = c.len_utf8();
            chain.push(len, token(&text.as_bytes()[at..at + len]).unwrap_or(NONE));
        }
        chain.join(|left, right| {
            let id = token(&text.as_bytes()[left.range().start..right.range().end])?;
            Some(Joined { rank: self.ranks[id as usize], id })
        });
        for symbol in chain.symbols() {
            match symbol.id {
                NONE => ids.extend(text.as_bytes()[symbol.range()].iter().map(|&b| self.byte_ids[b as usize])),
                id => ids.push(id),
            }
        }
    }
}

impl Tokenizer for Spm {
    fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        check_text(text)?;
        let mut escaped = String::new();
        let mut chain = Chain::default();
        let mut ids = Vec::new();
        let mut after_special = true;
        for fragment in self.vocab.literals().split(text, parse_special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => {
                    escaped.clear();
                    if after_special && self.vocab.special().space_prefix {
                        escaped.push_str(SPACE);
                    }
                    escape_spaces(text, &mut escaped);
                    self.encode_text(&escaped, &mut chain, &mut ids);
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(ids)
    }
}

/// Appends `text` with spaces as the vocabulary writes them.
pub(super) fn escape_spaces(text: &str, escaped: &mut String) {
    for (i, part) in text.split(' ').enumerate() {
        if i > 0 {
            escaped.push_str(SPACE);
        }
        escaped.push_str(part);
    }
}

/// Scores as ranks: the higher the score, the lower the rank.
fn read_ranks(source: &VocabSource<'_>) -> Result<Vec<u32>> {
    let key = "tokenizer.ggml.scores";
    let scores = source.scores.as_ref().ok_or_else(|| Error::MissingKey { key: key.into() })?;
    if scores.len() != source.tokens.len() {
        return Err(Error::BadKey {
            key: key.into(),
            expected: format!("{} scores, one a token", source.tokens.len()),
            found: format!("{}", scores.len()),
        });
    }
    if let Some(id) = scores.iter().position(|s| s.is_nan()) {
        return Err(invalid(format!("the score of token {id} is not a number")));
    }
    Ok(scores.iter().map(|&s| descending(s)).collect())
}

/// Integers in the opposite order of the floats: bits of positive floats rise with the value, of negative ones fall.
fn descending(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0 is 0
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

/// The bytes of a normal token.
pub(super) fn decode_name(name: &str, bytes: &mut Vec<u8>) {
    for (i, part) in name.split(SPACE).enumerate() {
        if i > 0 {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::descending;

    #[test]
    fn ranks_are_scores_in_descending_order() {
        let scores = [f32::INFINITY, 3.5, 1.0, f32::MIN_POSITIVE, 0.0, -1e-30, -1.0, -255_504.0, f32::NEG_INFINITY];
        let ranks: Vec<u32> = scores.iter().map(|&s| descending(s)).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert_eq!(descending(-0.0), descending(0.0));
    }
}
