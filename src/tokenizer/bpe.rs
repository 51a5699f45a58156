//! BPE: text is cut into words, and inside a word bytes or characters are joined in the order of a list of merges.
//!
//! Files mostly spell the bytes of a token as characters that can be seen (GPT-2's table, [`char_byte`]); merges are given by
//! these spellings too. All of it is turned into bytes and ids when the tokenizer is built. A few models spell text as it is
//! and start from characters, as SentencePiece does ([`Spelling`]).

use std::ops::Range;

use hashbrown::HashMap;

use super::merge::{Chain, Joined, NONE};
use super::pretokenizer::PreTokenizer;
use super::schemes::{Scheme, Spelling};
use super::source::VocabSource;
use super::special::Fragment;
use super::spm;
use super::vocab::{Rules, Vocab};
use super::{Tokenizer, check_text, invalid, quoted};
use crate::{Error, Result};

/// A BPE tokenizer (`tokenizer.ggml.model` = `gpt2`, `gemma4`).
#[derive(Debug)]
pub(super) struct Bpe {
    vocab: Vocab,
    pre: PreTokenizer,
    spelling: Spelling,
    /// Take a word that is a token whole.
    ignore_merges: bool,
    /// The token of each byte, [`NONE`] where a vocabulary has none: such bytes can't be said and are left out, as in
    /// llama.cpp (SmolLM2 lacks some control characters, and bytes that UTF-8 hardly uses).
    byte_ids: [u32; 256],
    /// What two tokens become.
    merges: HashMap<(u32, u32), Joined>,
}

impl Bpe {
    pub(super) fn new(source: &VocabSource<'_>) -> Result<Self> {
        // This kind of vocabulary has one scheme, which files may leave out.
        let scheme = Scheme::by_name(if source.model == "gemma4" { Some("gemma4") } else { source.pre })?;
        let decode = match scheme.spelling {
            Spelling::Bytes => decode_name,
            Spelling::Text => |name: &str, bytes: &mut Vec<u8>| bytes.extend_from_slice(name.as_bytes()),
            Spelling::Spaced => spm::decode_name,
        };
        let rules = Rules { add_bos: scheme.add_bos, space_prefix: None, bos_eos_unk: [None; 3], decode };
        let vocab = Vocab::new(source, &rules)?;
        let merges = read_merges(source, &vocab)?;
        let byte_ids = std::array::from_fn(|b| {
            let name = match scheme.spelling {
                Spelling::Bytes => byte_char(b as u8).to_string(),
                Spelling::Text | Spelling::Spaced => format!("<0x{b:02X}>"),
            };
            vocab.id(name.as_bytes()).unwrap_or(NONE)
        });
        let pre = PreTokenizer::new(scheme);
        let Scheme { spelling, ignore_merges, .. } = *scheme;
        Ok(Self { vocab, pre, spelling, ignore_merges, byte_ids, merges })
    }

    fn encode_text(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { words, spelled, chain } = scratch;
        self.pre.cut(text, words);
        for word in words.drain(..) {
            let word = &text[word];
            if self.is_whole(word)
                && let Some(id) = self.vocab.id(self.spell(word, spelled).as_bytes())
            {
                ids.push(id);
                continue;
            }
            chain.clear();
            match self.spelling {
                Spelling::Bytes => word.bytes().for_each(|byte| chain.push(1, self.byte_ids[byte as usize])),
                Spelling::Text | Spelling::Spaced => {
                    for c in word.chars() {
                        let id = self.vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes()).unwrap_or(NONE);
                        chain.push(c.len_utf8(), id);
                    }
                }
            }
            chain.join(|left, right| self.merges.get(&(left.id, right.id)).copied());
            for symbol in chain.symbols() {
                match symbol.id {
                    NONE => ids.extend(word.as_bytes()[symbol.range()].iter().map(|&b| self.byte_ids[b as usize])),
                    id => ids.push(id),
                }
            }
        }
        ids.retain(|&id| id != NONE);
    }

    /// Whether a word is taken whole if it is a token. Of several line breaks that is all that Gemma 4's files say.
    fn is_whole(&self, word: &str) -> bool {
        self.ignore_merges || (self.spelling == Spelling::Spaced && word.starts_with('\n'))
    }

    /// A word as the vocabulary spells it.
    fn spell<'a>(&self, word: &'a str, spelled: &'a mut String) -> &'a str {
        if self.spelling != Spelling::Bytes {
            return word;
        }
        spelled.clear();
        spelled.extend(word.bytes().map(byte_char));
        spelled
    }
}

/// Memory that one call of `encode` uses again for each word.
#[derive(Default)]
struct Scratch {
    words: Vec<Range<usize>>,
    spelled: String,
    chain: Chain,
}

impl Tokenizer for Bpe {
    fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        check_text(text)?;
        let mut scratch = Scratch::default();
        let mut ids = Vec::new();
        let mut escaped = String::new();
        for fragment in self.vocab.literals().split(text, parse_special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) if self.spelling == Spelling::Spaced => {
                    escaped.clear();
                    spm::escape_spaces(text, &mut escaped);
                    self.encode_text(&escaped, &mut scratch, &mut ids);
                }
                Fragment::Text(text) => self.encode_text(text, &mut scratch, &mut ids),
            }
        }
        Ok(ids)
    }
}

/// The merges by ids. Each must join two tokens to a third: anything else comes from a broken or hostile file.
fn read_merges(source: &VocabSource<'_>, vocab: &Vocab) -> Result<HashMap<(u32, u32), Joined>> {
    let lines = source.merges.as_ref().ok_or_else(|| Error::MissingKey { key: "tokenizer.ggml.merges".into() })?;
    let mut merges = HashMap::with_capacity(lines.len());
    let mut both = Vec::new();
    for (rank, &line) in lines.iter().enumerate() {
        let bad = |why: &str| invalid(format!("merge {rank} ({}) {why}", quoted(line)));
        // A token can begin with a space, but none has one inside.
        let space = line.iter().skip(1).position(|&b| b == b' ').ok_or_else(|| bad("is not two tokens"))? + 1;
        let (left, right) = (&line[..space], &line[space + 1..]);
        both.clear();
        both.extend_from_slice(left);
        both.extend_from_slice(right);
        let id = |name: &[u8]| vocab.id(name).ok_or_else(|| bad(&format!("needs {}, which is no token", quoted(name))));
        let (pair, id) = ((id(left)?, id(right)?), id(&both)?);
        let rank = u32::try_from(rank).map_err(|_| bad("is one too many"))?;
        // Of a repeated merge the first counts.
        merges.entry(pair).or_insert(Joined { rank, id });
    }
    Ok(merges)
}

/// The bytes that a name spells; a name with other characters stands for itself.
fn decode_name(name: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in name.chars() {
        match char_byte(c) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                return bytes.extend_from_slice(name.as_bytes());
            }
        }
    }
}

/// GPT-2's spelling of a byte: printable characters of Latin-1 are themselves, the other 68 follow from U+0100 on.
fn byte_char(byte: u8) -> char {
    let code = match byte {
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
        _ => u32::from(byte),
    };
    char::from_u32(code).expect("all codes are below U+0144")
}

/// The byte that GPT-2 spells as `c`.
fn char_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{byte_char, char_byte};

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            let c = byte_char(byte);
            assert_eq!(char_byte(c), Some(byte), "{c:?}");
            assert!(!c.is_whitespace() && !c.is_control(), "{c:?} cannot be seen");
        }
        assert_eq!((byte_char(b' '), byte_char(b'\n'), char_byte('\u{144}'), char_byte(' ')), ('Ġ', 'Ċ', None, None));
    }
}
