//! tokenizer.json, for vocabularies of the kind BPE: byte-level ones, and those that were made of SentencePiece's.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::{NEVER, Vocab, kind, pre};
use crate::convert::json::Object;
use crate::error::Result;

/// Whether the tokens spell bytes, each with a character of its own.
///
/// # Errors
/// If the file makes no sense.
pub(super) fn is_byte_level(json: &Object) -> Result<bool> {
    Ok(pre::steps(json)?.iter().any(|step| matches!(step, pre::Step::ByteLevel { .. })))
}

/// The vocabulary of a file, less the tokens that were added to it.
///
/// # Errors
/// If it is of another kind than BPE, makes no sense, or cuts text into words by an unknown rule.
pub(super) fn vocab(json: &Object, path: &Path, n_vocab: usize) -> Result<Vocab> {
    let model = json.opt_object("model")?.ok_or_else(|| json.bad("model", "an object"))?;
    // Older files leave the type out.
    if model.opt_str("type")?.unwrap_or("BPE") != "BPE" {
        return Err(model.bad("type", "BPE, the only kind of vocabulary that is known"));
    }
    let merges = merges(&model)?;
    let byte_level = is_byte_level(json)?;
    let mut vocab = if byte_level {
        Vocab::unused("gpt2", pre::name(json, &model)?, n_vocab)
    } else {
        Vocab::unused("llama", "default", n_vocab)
    };
    let unknown = model.opt_str("unk_token")?;
    let tokens = model.opt_object("vocab")?.ok_or_else(|| model.bad("vocab", "an object"))?;
    for (token, id) in tokens.iter() {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).ok_or_else(|| tokens.bad(token, "an id"))?;
        let kind = match token {
            _ if byte_level => kind::NORMAL,
            _ if Some(token) == unknown => kind::UNKNOWN,
            _ if is_byte(token) => kind::BYTE,
            _ => kind::NORMAL,
        };
        vocab.put(path, id, token.as_bytes(), kind)?;
    }
    if byte_level {
        vocab.merges = Some(merges.iter().map(|[left, right]| format!("{left} {right}")).collect());
    } else {
        vocab.scores = Some(scores(&vocab, &merges));
        vocab.space_prefix = Some(adds_space(json)?);
    }
    Ok(vocab)
}

/// `<0x0A>`
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Pairs of tokens, in the order of joining.
fn merges(model: &Object) -> Result<Vec<[&str; 2]>> {
    let bad = || model.bad("merges", "pairs of tokens");
    model.opt_array("merges")?.ok_or_else(bad)?.iter().map(|merge| pair(merge).ok_or_else(bad)).collect()
}

/// `"a b"`, or `["a", "b"]` in newer files.
fn pair(merge: &Value) -> Option<[&str; 2]> {
    match merge {
        Value::String(pair) => pair.split_once(' ').map(|(left, right)| [left, right]),
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => Some([left, right]),
            _ => None,
        },
        _ => None,
    }
}

/// SentencePiece joins the pair whose token has the best score; tokenizer.json has the order of joining in its place. The
/// first pair that makes a token is the one that decides.
fn scores(vocab: &Vocab, merges: &[[&str; 2]]) -> Vec<f32> {
    let mut rank = HashMap::new();
    for (i, [left, right]) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}").into_bytes()).or_insert(-(i as f32));
    }
    vocab.tokens.iter().map(|token| rank.get(token).copied().unwrap_or(NEVER * merges.len() as f32)).collect()
}

/// Whether text gets a space in front before it is cut.
fn adds_space(json: &Object) -> Result<bool> {
    let prepends = |value: &Value| {
        let kind = value.get("type").and_then(Value::as_str);
        kind == Some("Prepend")
            || kind == Some("Metaspace")
                && (value.get("prepend_scheme").and_then(Value::as_str).is_some_and(|scheme| scheme != "never")
                    || value.get("add_prefix_space").and_then(Value::as_bool) == Some(true))
    };
    let parts = |key, list| -> Result<bool> {
        let Some(object) = json.opt_object(key)? else { return Ok(false) };
        let inner = object.opt_array(list)?.unwrap_or_default();
        let whole = Value::Object(object.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect());
        Ok(prepends(&whole) || inner.iter().any(prepends))
    };
    Ok(parts("normalizer", "normalizers")? || parts("pre_tokenizer", "pretokenizers")?)
}
