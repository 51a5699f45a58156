//! Tokens with a meaning: those that were added, which of them begins and ends a text, and the chat template.

use std::path::Path;

use serde_json::Value;

use super::Vocab;
use crate::convert::json::Object;
use crate::error::{Error, Result};
use crate::gguf;

/// Kinds of tokens, by Hugging Face's name and GGUF's key.
const KINDS: &[(&str, &str)] = &[
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("cls", "cls_token_id"),
    ("mask", "mask_token_id"),
];

/// The full key of the id of such a token.
pub(super) fn key_of_id(kind: &str) -> String {
    let key = KINDS.iter().find(|(name, _)| *name == kind).map_or(kind, |(_, key)| key);
    format!("tokenizer.ggml.{key}")
}

/// Adds what tokenizer.json, added_tokens.json and tokenizer_config.json add to a vocabulary.
///
/// # Errors
/// If one of them makes no sense.
pub(super) fn added(
    vocab: &mut Vocab,
    folder: &Path,
    json: Option<(&Object, &Path)>,
    settings: Option<&Object>,
) -> Result<()> {
    let id_of = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
    let is_special = |token: &Value| token.get("special").and_then(Value::as_bool) == Some(true);
    let content = |token: &Value| token.get("content").and_then(Value::as_str).map(str::to_owned);
    let path = folder.join("added_tokens.json");
    if let Some(added) = Object::open(&path)? {
        for (token, id) in added.iter() {
            let id = id_of(Some(id)).ok_or_else(|| added.bad(token, "an id"))?;
            vocab.put_added(&path, id, token, false)?;
        }
    }
    if let Some((json, path)) = json {
        for token in json.opt_array("added_tokens")?.unwrap_or_default() {
            let bad = || json.bad("added_tokens", "tokens with their ids");
            let (id, text) = id_of(token.get("id")).zip(content(token)).ok_or_else(bad)?;
            vocab.put_added(path, id, &text, is_special(token))?;
        }
    }
    let decoder = settings.map_or(Ok(None), |settings| settings.opt_object("added_tokens_decoder"))?;
    for (id, token) in decoder.iter().flat_map(Object::iter) {
        let bad = || Error::Source {
            path: folder.join("tokenizer_config.json"),
            what: format!("`added_tokens_decoder`: `{id}` is no token"),
        };
        let (number, text) = id.parse().ok().zip(content(token)).ok_or_else(bad)?;
        vocab.put_added(&folder.join("tokenizer_config.json"), number, &text, is_special(token))?;
    }
    Ok(())
}

/// Ids of tokens with a meaning, whether prompts get them, and the chat template.
///
/// # Errors
/// If a file makes no sense.
pub(super) fn entries(
    vocab: &Vocab,
    folder: &Path,
    config: &Object,
    json: Option<&Object>,
    settings: Option<&Object>,
) -> Result<Vec<(String, gguf::Value)>> {
    let generation = Object::open(&folder.join("generation_config.json"))?;
    let mut entries = Vec::new();
    let mut ids = [None, None];
    for (i, &(kind, _)) in KINDS.iter().enumerate() {
        let named = settings.and_then(|settings| settings.get(&format!("{kind}_token")));
        let text = named.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        let by_number = |object: &Object| first_id(object.get(&format!("{kind}_token_id"))?);
        let own = || vocab.ids.iter().find(|(own, _)| *own == kind).map(|&(_, id)| id);
        let id = text.and_then(|text| vocab.id_of(text));
        let id = id.or_else(|| by_number(config)).or_else(|| generation.as_ref().and_then(by_number)).or_else(own);
        let Some(id) = id.filter(|&id| (id as usize) < vocab.tokens.len()) else { continue };
        entries.push((key_of_id(kind), id.into()));
        if let Some(slot) = ids.get_mut(i) {
            *slot = Some(id);
        }
    }
    for (key, at_end, id) in [("add_bos_token", false, ids[0]), ("add_eos_token", true, ids[1])] {
        let said = settings.map_or(Ok(None), |settings| settings.opt_bool(key))?;
        let by_template = || json.and_then(|json| template_adds(json, at_end)).map(|text| vocab.id_of(&text) == id);
        if let Some(adds) = said.or_else(by_template) {
            entries.push((format!("tokenizer.ggml.{key}"), adds.into()));
        }
    }
    entries.extend(chat_templates(folder, settings)?);
    Ok(entries)
}

/// The id that a value is, or the first one of a list.
fn first_id(value: &Value) -> Option<u32> {
    let value = value.as_array().map_or(Some(value), |ids| ids.first())?;
    value.as_u64()?.try_into().ok()
}

/// The token that a tokenizer.json puts at the beginning or the end of a text; an empty one if it has a template without.
fn template_adds(json: &Object, at_end: bool) -> Option<String> {
    let whole = json.get("post_processor")?;
    let list = whole.get("processors").and_then(Value::as_array);
    let mut processors = list.map_or(std::slice::from_ref(whole), Vec::as_slice).iter();
    let template = processors.find(|p| p.get("type").and_then(Value::as_str) == Some("TemplateProcessing"))?;
    let single = template.get("single")?.as_array()?;
    let token = if at_end { single.last() } else { single.first() };
    Some(token?.pointer("/SpecialToken/id").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// `tokenizer.chat_template`, and others that have a name.
fn chat_templates(folder: &Path, settings: Option<&Object>) -> Result<Vec<(String, gguf::Value)>> {
    const KEY: &str = "tokenizer.chat_template";
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = crate::convert::json::bytes(&path)? {
        let text = String::from_utf8(bytes).map_err(|_| Error::Source { path, what: "it is not UTF-8".into() })?;
        return Ok(vec![(KEY.into(), text.as_str().into())]);
    }
    let file = Object::open(&folder.join("chat_template.json"))?;
    let said = [file.as_ref(), settings].into_iter().flatten().find_map(|object| object.get("chat_template"));
    let named = |template: &Value| {
        let (name, text) = (template.get("name")?.as_str()?, template.get("template")?.as_str()?);
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        is_plain.then(|| match name {
            "default" => (KEY.to_owned(), gguf::Value::from(text)),
            name => (format!("{KEY}.{name}"), text.into()),
        })
    };
    Ok(match said {
        Some(Value::String(text)) => vec![(KEY.into(), text.as_str().into())],
        Some(Value::Array(templates)) => templates.iter().filter_map(named).collect(),
        _ => Vec::new(),
    })
}
