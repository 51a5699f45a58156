//! How a tokenizer.json cuts text into words, and what GGUF calls that.
//!
//! GGUF has a name where tokenizer.json has regular expressions. So the name is found by the expressions themselves; one that is
//! not in the table is an error, since a model that cuts text otherwise than it was trained is quietly worse.

use serde_json::Value;

use crate::convert::json::Object;
use crate::error::{Error, Result};

/// A step of cutting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Matches of a regular expression are words.
    Split(String),
    /// Digits are words.
    Digits { one_by_one: bool },
    /// Bytes become characters; with GPT-2's regular expression before, or not.
    ByteLevel { cuts: bool },
    /// Something else.
    Other(String),
}

/// The expressions of the schemes that cut by one, then spell bytes.
const SPLITS: &[(&str, &str)] = &[
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "tekken",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "gpt-4o",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The steps of a file, in order.
///
/// # Errors
/// If the file makes no sense.
pub(super) fn steps(json: &Object) -> Result<Vec<Step>> {
    let Some(object) = json.opt_object("pre_tokenizer")? else { return Ok(Vec::new()) };
    match object.opt_array("pretokenizers")? {
        Some(steps) => Ok(steps.iter().map(step).collect()),
        None => Ok(json.get("pre_tokenizer").map(step).into_iter().collect()),
    }
}

fn step(value: &Value) -> Step {
    let flag = |key| value.get(key).and_then(Value::as_bool);
    match value.get("type").and_then(Value::as_str) {
        Some("Split") => match value.pointer("/pattern/Regex").and_then(Value::as_str) {
            Some(regex) => Step::Split(regex.into()),
            None => Step::Other(value.to_string()),
        },
        Some("Digits") => Step::Digits { one_by_one: flag("individual_digits") == Some(true) },
        Some("ByteLevel") => Step::ByteLevel { cuts: flag("use_regex") != Some(false) },
        _ => Step::Other(value.to_string()),
    }
}

/// GGUF's name of how a file with byte-level tokens cuts.
///
/// # Errors
/// If it has none that is known.
pub(super) fn name(json: &Object, model: &Object) -> Result<&'static str> {
    let steps = steps(json)?;
    let name = match &steps[..] {
        [Step::ByteLevel { cuts: true }] => Some("gpt-2"),
        [Step::Digits { one_by_one: true }, Step::ByteLevel { cuts: true }] => Some("smollm"),
        [Step::Split(regex), Step::ByteLevel { cuts: false }] => {
            SPLITS.iter().find(|(_, known)| known == regex).map(|(name, _)| *name)
        }
        _ => None,
    };
    // These two differ in nothing but whether a word that is a token is taken whole.
    let whole_words = model.opt_bool("ignore_merges")? == Some(true);
    match name {
        Some("llama-bpe") if !whole_words => Ok("dbrx"),
        Some(name) => Ok(name),
        None => Err(Error::UnsupportedTokenizer {
            part: "pre-tokenizer",
            found: format!("{steps:?}"),
            known: ["gpt-2", "smollm", "dbrx"].into_iter().chain(SPLITS.iter().map(|(name, _)| *name)).collect(),
        }),
    }
}
