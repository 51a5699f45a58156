//! The one place where bytes of a file are taken: little-endian, bounded, and never past the end.

use super::value::ValueType;
use crate::quant::SharedBytes;

/// What is wrong, for [`Error::Gguf`](crate::Error::Gguf), which the caller makes of it since it knows the path.
pub(super) type Parse<T> = Result<T, String>;

/// Arrays may hold arrays this deep. llama.cpp reads none at all; a limit keeps the recursion off the stack's end.
const MAX_DEPTH: usize = 8;

/// A position in bytes.
pub(super) struct Cursor<'a> {
    shared: &'a SharedBytes,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(shared: &'a SharedBytes) -> Self {
        Self { shared, bytes: shared, pos: 0 }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Parse<&'a [u8]> {
        if n > self.remaining() {
            return Err(format!(
                "{n} bytes are expected at byte {}, but the file ends at byte {}",
                self.pos,
                self.bytes.len()
            ));
        }
        self.pos += n;
        Ok(&self.bytes[self.pos - n..self.pos])
    }

    /// The next `n` bytes, or as many as there are, without taking them.
    pub(super) fn peek(&self, n: usize) -> &'a [u8] {
        &self.bytes[self.pos..][..n.min(self.remaining())]
    }

    /// As many bytes as the array has.
    pub(super) fn array<const N: usize>(&mut self) -> Parse<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take gives as many bytes as were asked for"))
    }

    pub(super) fn u32(&mut self) -> Parse<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Parse<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each: refused if the file has no room for so many.
    pub(super) fn count(&mut self, what: &str, min_bytes: usize) -> Parse<usize> {
        let at = self.pos;
        let n = self.u64()?;
        match usize::try_from(n) {
            Ok(n) if n <= self.remaining() / min_bytes => Ok(n),
            _ => Err(format!("{n} {what} are promised at byte {at}, but only {} bytes follow", self.remaining())),
        }
    }

    /// A string: its length, then its bytes, of whatever encoding.
    pub(super) fn string(&mut self) -> Parse<&'a [u8]> {
        let n = self.count("bytes of text", 1)?;
        self.take(n)
    }

    /// A string as a piece of the file.
    pub(super) fn shared_string(&mut self) -> Parse<SharedBytes> {
        let n = self.string()?.len();
        Ok(self.shared.slice(self.pos - n..self.pos))
    }

    /// A string that has to be text, since it is a name.
    pub(super) fn name(&mut self, what: &str) -> Parse<String> {
        let at = self.pos;
        match std::str::from_utf8(self.string()?) {
            Ok("") => Err(format!("the {what} at byte {at} is empty")),
            // Names end up on terminals.
            Ok(name) if name.contains(char::is_control) => {
                Err(format!("the {what} at byte {at}, {name:?}, has control characters"))
            }
            Ok(name) => Ok(name.into()),
            Err(_) => Err(format!("the {what} at byte {at} is not UTF-8")),
        }
    }

    pub(super) fn value_type(&mut self) -> Parse<ValueType> {
        let at = self.pos;
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| format!("unknown type {id} of a value at byte {at}"))
    }

    /// An array: type and number of its items, and the bytes that they take.
    pub(super) fn items(&mut self) -> Parse<(ValueType, usize, SharedBytes)> {
        let (item, len, start) = self.skip_array(0)?;
        Ok((item, len, self.shared.slice(start..self.pos)))
    }

    /// Goes past an array, and so checks all of it; returns where its items start.
    fn skip_array(&mut self, depth: usize) -> Parse<(ValueType, usize, usize)> {
        if depth == MAX_DEPTH {
            return Err(format!("arrays are nested more than {MAX_DEPTH} deep at byte {}", self.pos));
        }
        let item = self.value_type()?;
        let len = self.count("array items", item.min_bytes())?;
        let start = self.pos;
        match item {
            ValueType::String => (0..len).try_for_each(|_| self.string().map(|_| ()))?,
            ValueType::Array => (0..len).try_for_each(|_| self.skip_array(depth + 1).map(|_| ()))?,
            ValueType::Bool => self.take(len)?.iter().try_for_each(|&b| bool_of(b).map(|_| ()))?,
            // No overflow: `count` saw that so many items of this size are there.
            _ => self.take(len * item.min_bytes()).map(|_| ())?,
        }
        Ok((item, len, start))
    }
}

/// A boolean as files have it; other numbers than 0 and 1 mean that something else went wrong.
pub(super) fn bool_of(byte: u8) -> Parse<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(format!("a boolean is {byte}, neither 0 nor 1")),
    }
}
