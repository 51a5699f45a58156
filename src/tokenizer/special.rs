//! Tokens with a meaning of their own: which they are, how they are found in text, which of them end generation.

use aho_corasick::{AhoCorasick, MatchKind};

use super::invalid;
use super::source::VocabSource;
use super::vocab::{Kind, Rules};
use crate::{Error, Result};

/// The special tokens of a vocabulary, and the file's rules for prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message that is not the end of a turn, such as a call of a tool.
    pub eom: Option<u32>,
    /// Stands for what can't be said.
    pub unk: Option<u32>,
    /// Every token that ends generation, ascending.
    pub eog: Vec<u32>,
    /// Whether prompts begin with BOS.
    pub add_bos: bool,
    /// Whether prompts end with EOS.
    pub add_eos: bool,
    /// Whether text gets a space in front before it is encoded, which decoding takes away again.
    pub space_prefix: bool,
}

/// Names of tokens that end a turn; files seldom say which it is. The first that there is counts.
const EOT_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Further names of tokens that end generation: a model that says one has finished, or has left the conversation.
const EOG_NAMES: &[&str] = &[
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Ends a turn in most vocabularies, but only a message in those that have both tokens of one of these pairs.
const END: &str = "<|end|>";
const OTHER_ENDS: [[&str; 2]; 2] = [["<|return|>", "<|call|>"], ["<|flush|>", "<|calls|>"]];

/// Names of tokens that structure what a model says, and are shown with it, though files call them control tokens.
const SHOWN_NAMES: &[&str] = &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"];

impl SpecialTokens {
    /// Reads what the file says and finds out what it doesn't. Tokens that end generation by their names become control
    /// tokens: files are known to call some normal, and `<|im_end|>` would then be printed.
    pub(super) fn new(
        source: &VocabSource<'_>,
        rules: &Rules,
        kinds: &mut [Kind],
        id_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<SpecialTokens> {
        let end_is_shown = OTHER_ENDS.iter().any(|names| names.iter().all(|name| id_of(name).is_some()));
        let eot_names = || EOT_NAMES.iter().filter(|&&name| name != END || !end_is_shown);
        let mut eog: Vec<u32> = eot_names().chain(EOG_NAMES).filter_map(|name| id_of(name)).collect();
        for &id in &eog {
            kinds[id as usize] = Kind::Control;
        }
        for id in SHOWN_NAMES.iter().chain(end_is_shown.then_some(&END)).filter_map(|name| id_of(name)) {
            kinds[id as usize] = Kind::Shown;
        }
        let is_special = |id: u32| matches!(kinds.get(id as usize), Some(Kind::Control | Kind::Unknown));
        let n = kinds.len();
        let checked = |key: &str, id: Option<u32>, default: Option<u32>| match id {
            Some(id) if id as usize >= n => Err(Error::BadKey {
                key: format!("tokenizer.ggml.{key}"),
                expected: format!("the id of one of {n} tokens"),
                found: id.to_string(),
            }),
            Some(id) => Ok(Some(id)),
            None => Ok(default.filter(|&id| is_special(id))),
        };
        let [bos, eos, unk] = rules.bos_eos_unk;
        let special = SpecialTokens {
            bos: checked("bos_token_id", source.bos_token_id, bos)?,
            eos: checked("eos_token_id", source.eos_token_id, eos)?,
            eot: checked("eot_token_id", source.eot_token_id, eot_names().find_map(|name| id_of(name)))?,
            eom: checked("eom_token_id", source.eom_token_id, id_of("<|eom_id|>"))?,
            unk: checked("unknown_token_id", source.unknown_token_id, unk)?,
            eog: Vec::new(),
            add_bos: source.add_bos_token.unwrap_or(rules.add_bos),
            add_eos: source.add_eos_token.unwrap_or(false),
            space_prefix: rules.space_prefix.is_some_and(|default| source.add_space_prefix.unwrap_or(default)),
        };
        for (add, id, name) in [(special.add_bos, special.bos, "bos"), (special.add_eos, special.eos, "eos")] {
            if add && id.is_none() {
                return Err(Error::MissingKey { key: format!("tokenizer.ggml.{name}_token_id") });
            }
        }
        eog.extend([special.eos, special.eot, special.eom].into_iter().flatten());
        eog.sort_unstable();
        eog.dedup();
        Ok(SpecialTokens { eog, ..special })
    }
}

/// The tokens that are found in text by their names, before anything else is done with it.
#[derive(Debug)]
pub(super) struct Literals {
    /// User-defined tokens: always found.
    user: Names,
    /// These and the control tokens: found where special tokens are parsed.
    all: Names,
}

/// A piece of text after [`Literals::split`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// The white space that a token takes with it. Files don't say; models are known by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strip {
    Nothing,
    /// What is in front of it.
    Left,
    /// What is behind it.
    Right,
}

impl Strip {
    /// What the token `name` does in the model that calls itself `model_name`.
    fn of(model_name: &str, name: &[u8]) -> Self {
        let is = |names: &[&str]| names.iter().any(|part| model_name.contains(part));
        if is(&["phi-3", "phi3"]) {
            let keeps = [&b"<unk>"[..], b"<s>", b"<|endoftext|>"].contains(&name);
            return if keeps { Strip::Nothing } else { Strip::Right };
        }
        let is_mask = name == b"<mask>" || name == b"[MASK]";
        if is_mask && is(&["jina", "modern-bert"]) { Strip::Left } else { Strip::Nothing }
    }
}

impl Literals {
    pub(super) fn new<'a>(kinds: &[Kind], name_of: impl Fn(u32) -> &'a [u8], model_name: Option<&str>) -> Result<Self> {
        let model_name = model_name.unwrap_or_default().to_lowercase();
        let of = |wanted: &[Kind]| {
            let ids = (0u32..).zip(kinds).filter(|(_, kind)| wanted.contains(kind)).map(|(id, _)| id);
            Names::new(ids.filter(|&id| !name_of(id).is_empty()).collect(), &name_of, &model_name)
        };
        Ok(Self {
            user: of(&[Kind::UserDefined])?,
            all: of(&[Kind::UserDefined, Kind::Shown, Kind::Control, Kind::Unknown])?,
        })
    }

    /// Where tokens begin in `text`, and which.
    pub(super) fn find(&self, text: &str) -> impl Iterator<Item = (usize, u32)> {
        let found = self.all.finder.iter().flat_map(move |finder| finder.find_iter(text));
        found.map(|m| (m.start(), self.all.tokens[m.pattern().as_usize()].0))
    }

    /// Cuts `text` at the tokens in it: from the left, the longest where several begin.
    pub(super) fn split<'t>(&'t self, text: &'t str, parse_special: bool) -> impl Iterator<Item = Fragment<'t>> {
        let names = if parse_special { &self.all } else { &self.user };
        let found = names.finder.iter().flat_map(move |finder| finder.find_iter(text));
        let tokens = found.map(|m| (m.range(), Some(names.tokens[m.pattern().as_usize()])));
        let (mut at, mut last) = (0, Strip::Nothing);
        tokens.chain([(text.len()..text.len(), None)]).flat_map(move |(range, token)| {
            let mut before = &text[at..range.start];
            if last == Strip::Right {
                before = before.trim_start_matches(is_space);
            }
            last = token.map_or(Strip::Nothing, |(_, strip)| strip);
            if last == Strip::Left {
                before = before.trim_end_matches(is_space);
            }
            at = range.end;
            let before = Some(before).filter(|t| !t.is_empty()).map(Fragment::Text);
            before.into_iter().chain(token.map(|(id, _)| Fragment::Token(id)))
        })
    }
}

/// White space as C has it.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// Some tokens, and what finds their names.
#[derive(Debug)]
struct Names {
    tokens: Vec<(u32, Strip)>,
    /// `None` if there are no names.
    finder: Option<AhoCorasick>,
}

impl Names {
    fn new<'a>(ids: Vec<u32>, name_of: impl Fn(u32) -> &'a [u8], model_name: &str) -> Result<Self> {
        let names = ids.iter().map(|&id| name_of(id));
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names.clone())
            .map_err(|e| invalid(format!("its {} special tokens cannot be searched for: {e}", ids.len())))?;
        let tokens: Vec<_> = ids.iter().copied().zip(names.map(|name| Strip::of(model_name, name))).collect();
        Ok(Self { finder: (!tokens.is_empty()).then_some(finder), tokens })
    }
}
