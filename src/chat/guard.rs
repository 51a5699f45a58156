//! What people write is text, whatever it says: `<|im_end|>` in a message does not end it.
//!
//! In the text that a template makes, names of control tokens are parsed: its own, and those in messages alike. So such names
//! in messages are broken by a mark before the template sees them, and the text is encoded piece by piece between marks.

use super::Message;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// A code point that Unicode promises never to use.
const MARK: char = '\u{fdd0}';

/// The messages, with a mark behind the first character of each name of a token that steers the model.
pub(super) fn mark(messages: &[Message], tokenizer: &dyn Tokenizer) -> Vec<Message> {
    let marked = |message: &Message| Message { content: mark_text(&message.content, tokenizer), ..message.clone() };
    messages.iter().map(marked).collect()
}

fn mark_text(text: &str, tokenizer: &dyn Tokenizer) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    // The search goes on inside of the name that was found: another one may begin there.
    while let Some(at) = tokenizer.find_special(rest) {
        let first_len = rest[at..].chars().next().map_or(0, char::len_utf8);
        let (before, after) = rest.split_at(at + first_len);
        marked.push_str(before);
        marked.push(MARK);
        rest = after;
    }
    marked + rest
}

/// Ids of a text that a template made of marked messages, with special tokens parsed.
pub(super) fn encode(text: &str, tokenizer: &dyn Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for piece in text.split(MARK) {
        ids.extend(tokenizer.encode(piece, true)?);
    }
    Ok(ids)
}
