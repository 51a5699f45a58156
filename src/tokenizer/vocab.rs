//! The checked vocabulary: id to name, name to id, id to bytes of text.
//!
//! Gemma's has 262,144 tokens, so nothing is allocated per token: names and bytes lie end to end in two buffers, and the map
//! from names holds ids only.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::source::VocabSource;
use super::special::{Literals, SpecialTokens};
use super::{invalid, quoted};
use crate::{Error, Result};

/// What a kind of vocabulary brings along.
pub(super) struct Rules {
    /// Whether prompts begin with BOS, if the file doesn't say.
    pub(super) add_bos: bool,
    /// Whether text gets a space in front, if the file doesn't say; `None` where the kind of vocabulary has no such thing.
    pub(super) space_prefix: Option<bool>,
    /// Ids of BOS, EOS and unknown, if the file doesn't say and these are special tokens.
    pub(super) bos_eos_unk: [Option<u32>; 3],
    /// Appends the bytes of text that the name of a normal token spells; they are no more than the name has.
    pub(super) decode: fn(name: &str, bytes: &mut Vec<u8>),
}

/// GGUF's types of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Spells text (also the types undefined and unused).
    Normal,
    /// Stands for what can't be said.
    Unknown,
    /// Steers the model.
    Control,
    /// Steers the model, and is shown by its name.
    Shown,
    /// Is its own name, found in text before anything else is done with it.
    UserDefined,
    /// A byte: `<0x0A>`.
    Byte,
}

impl Kind {
    fn from_type(token_type: i32) -> Option<Self> {
        Some(match token_type {
            0 | 1 | 5 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// Names, kinds and texts of all tokens.
#[derive(Debug)]
pub struct Vocab {
    names: Strings,
    bytes: Strings,
    kinds: Vec<Kind>,
    ids: NameMap,
    special: SpecialTokens,
    literals: Literals,
    max_name_len: usize,
}

impl Vocab {
    pub(super) fn new(source: &VocabSource<'_>, rules: &Rules) -> Result<Self> {
        let names = Strings::of_names(&source.tokens)?;
        let ids = NameMap::new(&names)?;
        let mut kinds = read_kinds(source)?;
        let special = SpecialTokens::new(source, rules, &mut kinds, |name| ids.get(&names, name.as_bytes()))?;
        let bytes = decode_all(&names, &kinds, rules.decode)?;
        let literals = Literals::new(&kinds, |id| names.get(id), source.model_name)?;
        let max_name_len = source.tokens.iter().map(|t| t.len()).max().unwrap_or(0);
        Ok(Self { names, bytes, kinds, ids, special, literals, max_name_len })
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of text that `id` stands for.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// The name of `id`.
    pub(super) fn name(&self, id: u32) -> &str {
        std::str::from_utf8(self.names.get(id)).expect("names are checked when they are read")
    }

    /// The token called `name`.
    pub(super) fn id(&self, name: &[u8]) -> Option<u32> {
        self.ids.get(&self.names, name)
    }

    /// Bytes of the longest name.
    pub(super) fn max_name_len(&self) -> usize {
        self.max_name_len
    }

    pub(super) fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// Whether the token steers the model, shown or not.
    pub(super) fn steers(&self, id: u32) -> bool {
        self.is_control(id) || self.kinds.get(id as usize) == Some(&Kind::Shown)
    }

    pub(super) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    pub(super) fn literals(&self) -> &Literals {
        &self.literals
    }
}

fn read_kinds(source: &VocabSource<'_>) -> Result<Vec<Kind>> {
    let n = source.tokens.len();
    let Some(types) = &source.token_type else { return Ok(vec![Kind::Normal; n]) };
    if types.len() != n {
        return Err(Error::BadKey {
            key: "tokenizer.ggml.token_type".into(),
            expected: format!("{n} types, one a token"),
            found: format!("{}", types.len()),
        });
    }
    let kind = |(id, &t)| Kind::from_type(t).ok_or_else(|| invalid(format!("token {id} has the unknown type {t}")));
    types.iter().enumerate().map(kind).collect()
}

fn decode_all(names: &Strings, kinds: &[Kind], decode: fn(&str, &mut Vec<u8>)) -> Result<Strings> {
    let mut texts = Strings::with_capacity(kinds.len(), names.bytes.len());
    for (id, kind) in (0u32..).zip(kinds) {
        let name = names.get(id);
        match kind {
            Kind::Unknown | Kind::Control => {}
            Kind::UserDefined | Kind::Shown => texts.bytes.extend_from_slice(name),
            Kind::Byte => texts.bytes.push(byte_of(name).ok_or_else(|| {
                invalid(format!("token {id} is of the type byte, but is called {}, not <0x..>", quoted(name)))
            })?),
            Kind::Normal => {
                decode(std::str::from_utf8(name).expect("names are checked when they are read"), &mut texts.bytes);
            }
        }
        texts.end();
    }
    texts.bytes.shrink_to_fit();
    Ok(texts)
}

/// The byte that a name like `<0x0A>` stands for.
fn byte_of(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Byte strings end to end.
#[derive(Debug)]
struct Strings {
    bytes: Vec<u8>,
    /// Where each ends; it starts where the one before ends.
    ends: Vec<u32>,
}

impl Strings {
    fn with_capacity(n: usize, n_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(n_bytes), ends: Vec::with_capacity(n) }
    }

    /// The names of tokens, each checked to be UTF-8, and all of them to be counted by `u32`.
    fn of_names(tokens: &[&[u8]]) -> Result<Self> {
        let n_bytes: usize = tokens.iter().map(|t| t.len()).sum();
        if tokens.is_empty() || tokens.len() >= u32::MAX as usize || n_bytes >= u32::MAX as usize {
            return Err(invalid(format!("{} tokens of {n_bytes} bytes are no vocabulary", tokens.len())));
        }
        let mut names = Self::with_capacity(tokens.len(), n_bytes);
        for (id, &token) in tokens.iter().enumerate() {
            if std::str::from_utf8(token).is_err() {
                return Err(invalid(format!("the name of token {id} ({}) is not UTF-8", quoted(token))));
            }
            names.bytes.extend_from_slice(token);
            names.end();
        }
        Ok(names)
    }

    /// Ends the string whose bytes were appended.
    fn end(&mut self) {
        self.ends.push(self.bytes.len() as u32);
    }

    /// String `i`; empty if there is none.
    fn get(&self, i: u32) -> &[u8] {
        let i = i as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start as usize..end as usize]
    }
}

/// Ids by name. The hasher is seeded at random, so that no file can be made to collide.
#[derive(Debug)]
struct NameMap {
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl NameMap {
    /// Maps all names but empty ones, which are holes in a vocabulary. Two tokens with one name are an error.
    fn new(names: &Strings) -> Result<Self> {
        let n = names.ends.len();
        let mut map = Self { ids: HashTable::with_capacity(n), hasher: DefaultHashBuilder::default() };
        for id in 0..n as u32 {
            let name = names.get(id);
            if name.is_empty() {
                continue;
            }
            if let Some(other) = map.get(names, name) {
                return Err(invalid(format!("tokens {other} and {id} are both called {}", quoted(name))));
            }
            let hash = map.hasher.hash_one(name);
            map.ids.insert_unique(hash, id, |&id| map.hasher.hash_one(names.get(id)));
        }
        Ok(map)
    }

    fn get(&self, names: &Strings, name: &[u8]) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(name), |&id| names.get(id) == name).copied()
    }
}
