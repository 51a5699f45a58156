//! SentencePiece's tokenizer.model: a message in Protocol Buffers, of which a few fields matter.
//!
//! Sources: <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>,
//! <https://protobuf.dev/programming-guides/encoding>.

use std::path::Path;

use super::{Vocab, kind};
use crate::convert::source::HUGGING_FACE;
use crate::error::{Error, Result};

/// A field of a message: its number and its value.
enum Field<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Single(f32),
    Double,
}

/// The fields of a message, one after another.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// Number and value of the next field.
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Integer(self.varint()?),
            1 => self.take(8).map(|_| Field::Double)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Single(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    /// All fields; `None` if what follows is no message.
    fn fields(mut self) -> Option<Vec<(u64, Field<'a>)>> {
        let mut fields = Vec::new();
        while !self.0.is_empty() {
            fields.push(self.field()?);
        }
        Some(fields)
    }
}

/// A token as the file has it.
struct Piece<'a> {
    text: &'a [u8],
    score: f32,
    kind: i32,
}

/// Whether a file has lines of a token in Base64 and its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    match line.iter().position(|&byte| byte == b' ') {
        Some(at @ 1..) => {
            line[..at].iter().all(is_base64) && line[at + 1..].trim_ascii_end().iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// `trainer_spec.model_type` of vocabularies whose tokens are joined of two others by score.
const BPE: u64 = 2;

/// What a file says.
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    model_type: u64,
    space_prefix: bool,
    /// Ids of unknown, BOS, EOS and padding; those that there are not are negative.
    ids: [i64; 4],
}

/// The vocabulary in `bytes`, which come from `path`.
///
/// # Errors
/// If they are none, or one whose tokens are chosen by another rule.
pub(super) fn vocab(bytes: &[u8], path: &Path, n_vocab: usize) -> Result<Vocab> {
    let fault = |what: &str| Error::Source { path: path.into(), what: what.into() };
    let model = Message(bytes).fields().and_then(|fields| model(&fields));
    let model = model.filter(|model| !model.pieces.is_empty()).ok_or_else(|| match is_tiktoken(bytes) {
        true => Error::Unconvertible {
            path: path.into(),
            what: "it has ranks of tokens, as tiktoken reads them since Llama 3, and not how text is cut".into(),
            hint: HUGGING_FACE.into(),
        },
        false => fault("not a SentencePiece model"),
    })?;
    if model.model_type != BPE {
        return Err(fault("its SentencePiece model is not of the kind BPE, the only one that is known"));
    }
    let mut vocab = Vocab::unused("llama", "default", n_vocab);
    let mut scores = vec![-10_000.0; n_vocab];
    for (id, piece) in model.pieces.iter().enumerate() {
        if std::str::from_utf8(piece.text).is_err() || !piece.score.is_finite() {
            return Err(fault(&format!("token {id} of its SentencePiece model makes no sense")));
        }
        vocab.put(path, id, piece.text, piece.kind)?;
        scores[id] = piece.score;
    }
    vocab.scores = Some(scores);
    vocab.space_prefix = Some(model.space_prefix);
    for (key, id) in ["unk", "bos", "eos", "pad"].into_iter().zip(model.ids) {
        vocab.ids.extend(u32::try_from(id).ok().filter(|&id| (id as usize) < n_vocab).map(|id| (key, id)));
    }
    Ok(vocab)
}

fn model<'a>(fields: &[(u64, Field<'a>)]) -> Option<Model<'a>> {
    let mut model = Model { pieces: Vec::new(), model_type: 1, space_prefix: true, ids: [0, 1, 2, -1] };
    for (number, field) in fields {
        let Field::Bytes(bytes) = *field else { continue };
        match number {
            1 => model.pieces.push(piece(bytes)?),
            2 => {
                for (number, field) in Message(bytes).fields()? {
                    match (number, field) {
                        (3, Field::Integer(kind)) => model.model_type = kind,
                        // Negative numbers are in two's complement.
                        (40..=43, Field::Integer(id)) => model.ids[number as usize - 40] = id as i64,
                        _ => {}
                    }
                }
            }
            3 => {
                for (number, field) in Message(bytes).fields()? {
                    if let (3, Field::Integer(add)) = (number, field) {
                        model.space_prefix = add != 0;
                    }
                }
            }
            _ => {}
        }
    }
    Some(model)
}

fn piece(bytes: &[u8]) -> Option<Piece<'_>> {
    let mut piece = Piece { text: &[], score: 0.0, kind: kind::NORMAL };
    for (number, field) in Message(bytes).fields()? {
        match (number, field) {
            (1, Field::Bytes(text)) => piece.text = text,
            (2, Field::Single(score)) => piece.score = score,
            // Its numbers are GGUF's.
            (3, Field::Integer(kind @ 1..=6)) => piece.kind = kind as i32,
            _ => {}
        }
    }
    Some(piece)
}
