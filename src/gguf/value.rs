//! Metadata values. Scalars are copied; strings and arrays are pieces of the file, decoded when somebody asks.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::cursor::{Cursor, Parse, bool_of};
use crate::error::{Error, Result};
use crate::quant::SharedBytes;

/// What a value can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// 8 bits, unsigned
    U8 = 0,
    /// 8 bits, signed
    I8 = 1,
    /// 16 bits, unsigned
    U16 = 2,
    /// 16 bits, signed
    I16 = 3,
    /// 32 bits, unsigned
    U32 = 4,
    /// 32 bits, signed
    I32 = 5,
    /// IEEE single
    F32 = 6,
    /// One byte, 0 or 1
    Bool = 7,
    /// Length and bytes, meant to be UTF-8
    String = 8,
    /// Items of one type
    Array = 9,
    /// 64 bits, unsigned
    U64 = 10,
    /// 64 bits, signed
    I64 = 11,
    /// IEEE double
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The type with GGUF's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// What a value takes: exactly for scalars, at least for strings (their length) and arrays (type and length).
    pub(super) fn min_bytes(self) -> usize {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | String => 8,
            Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        })
    }
}

/// What a key stands for.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the variants are those of ValueType")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// The bytes of the text, whatever they are.
    String(SharedBytes),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The integer that it is, of whatever width.
    pub fn int(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The number that it is, if it is a float; a double is rounded.
    pub fn float(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    pub(super) fn read(c: &mut Cursor<'_>, value_type: ValueType) -> Parse<Value> {
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(c.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(c.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(c.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(c.array()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(c.array()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(c.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(c.array()?)),
            ValueType::Bool => Value::Bool(bool_of(u8::from_le_bytes(c.array()?))?),
            ValueType::String => Value::String(c.shared_string()?),
            ValueType::Array => {
                let (item, len, bytes) = c.items()?;
                Value::Array(Array { item, len, bytes })
            }
            ValueType::U64 => Value::U64(u64::from_le_bytes(c.array()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(c.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(c.array()?)),
        })
    }

    /// Appends the value as a file has it, without its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.push(*v),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::String(v) => {
                out.extend((v.len() as u64).to_le_bytes());
                out.extend_from_slice(v);
            }
            Value::Array(v) => {
                out.extend((v.item as u32).to_le_bytes());
                out.extend((v.len as u64).to_le_bytes());
                out.extend_from_slice(&v.bytes);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// How many characters of a string, and items of an array, [`Value`]'s text form shows.
const SHOWN: usize = 60;
const SHOWN_ITEMS: usize = 8;

impl fmt::Display for Value {
    /// For people, and short: long strings and arrays are cut, with their length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::F32(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::String(bytes) => {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
                let shown: String = text.chars().take(SHOWN).collect();
                write!(f, "{shown:?}")?;
                if shown.len() < bytes.len() { write!(f, "… ({} bytes)", bytes.len()) } else { Ok(()) }
            }
            Value::Array(array) => {
                f.write_str("[")?;
                for (i, item) in array.iter().take(SHOWN_ITEMS).enumerate() {
                    write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
                }
                if array.len > SHOWN_ITEMS { write!(f, ", … {} in all]", array.len) } else { f.write_str("]") }
            }
            _ => write!(f, "{}", self.int().expect("all other values are integers")),
        }
    }
}

/// Items of one type, as the file has them.
#[derive(Debug, Clone)]
pub struct Array {
    item: ValueType,
    len: usize,
    /// Checked when read: holds `len` items, and nothing else.
    bytes: SharedBytes,
}

impl Array {
    /// Type of the items.
    pub fn item_type(&self) -> ValueType {
        self.item
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items in order, each decoded when it is reached.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        let mut cursor = Cursor::new(&self.bytes);
        (0..self.len).map(move |_| Value::read(&mut cursor, self.item).expect("an array is checked when it is read"))
    }

    /// An array of `items`, all of the type `item`.
    ///
    /// # Panics
    /// If one of them is of another type.
    pub fn new(item: ValueType, items: &[Value]) -> Self {
        assert!(items.iter().all(|v| v.value_type() == item), "all items of an array have its type, {item}");
        Self::of(item, items, Clone::clone)
    }

    fn of<T>(item: ValueType, items: &[T], value: impl Fn(&T) -> Value) -> Self {
        let mut bytes = Vec::with_capacity(items.len() * item.min_bytes());
        for item in items {
            value(item).write(&mut bytes);
        }
        Self { item, len: items.len(), bytes: SharedBytes::new(Arc::new(bytes)) }
    }
}

/// An array of strings with random access: the bytes stay in the file, only where each starts is kept.
#[derive(Debug, Clone)]
pub struct StringArray {
    key: String,
    bytes: SharedBytes,
    /// Where in `bytes` the length of each string stands.
    starts: Vec<usize>,
}

impl StringArray {
    /// The strings of `array`, which has the key `key`; `None` if its items are none.
    pub(super) fn new(key: &str, array: &Array) -> Option<Self> {
        if array.item != ValueType::String {
            return None;
        }
        let mut cursor = Cursor::new(&array.bytes);
        let starts = (0..array.len).map(|_| {
            let start = cursor.pos();
            cursor.string().expect("an array is checked when it is read");
            start
        });
        let starts = starts.collect();
        Some(Self { key: key.into(), bytes: array.bytes.clone(), starts })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The bytes of string `i`, whatever they are.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let start = *self.starts.get(i)?;
        Some(string_at(&self.bytes, start))
    }

    /// The bytes of all strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let bytes: &[u8] = &self.bytes;
        self.starts.iter().map(move |&start| string_at(bytes, start))
    }

    /// All strings in order, with `�` where they are not UTF-8.
    pub fn iter_lossy(&self) -> impl ExactSizeIterator<Item = Cow<'_, str>> {
        self.iter().map(String::from_utf8_lossy)
    }

    /// All strings in order.
    ///
    /// # Errors
    /// In place of each that is not UTF-8, naming the key and its index.
    pub fn iter_str(&self) -> impl ExactSizeIterator<Item = Result<&str>> {
        self.iter().enumerate().map(|(i, bytes)| {
            std::str::from_utf8(bytes).map_err(|_| Error::BadKey {
                key: self.key.clone(),
                expected: "strings in UTF-8".into(),
                found: format!("{:?} at index {i}", String::from_utf8_lossy(bytes)),
            })
        })
    }
}

/// The string whose length stands at `start`.
fn string_at(bytes: &[u8], start: usize) -> &[u8] {
    let (len, rest) = bytes[start..].split_first_chunk().expect("a string array is checked when it is read");
    &rest[..u64::from_le_bytes(*len) as usize]
}

macro_rules! from_scalar {
    ($($t:ty => $variant:ident),* $(,)?) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Value::$variant(v)
            }
        }
        impl From<&[$t]> for Value {
            fn from(items: &[$t]) -> Self {
                Array::of(ValueType::$variant, items, |&v| v.into()).into()
            }
        }
    )*};
}

from_scalar!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, u64 => U64,
    i64 => I64, f64 => F64);

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Value::Array(array)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(SharedBytes::new(Arc::new(text.as_bytes().to_vec())))
    }
}

impl From<&[&str]> for Value {
    fn from(items: &[&str]) -> Self {
        Array::of(ValueType::String, items, |&text| text.into()).into()
    }
}

impl From<&[String]> for Value {
    fn from(items: &[String]) -> Self {
        Array::of(ValueType::String, items, |text| text.as_str().into()).into()
    }
}

impl From<Vec<u8>> for Value {
    /// A string of arbitrary bytes.
    fn from(bytes: Vec<u8>) -> Self {
        Value::String(SharedBytes::new(Arc::new(bytes)))
    }
}

impl From<&[Vec<u8>]> for Value {
    /// Strings of arbitrary bytes.
    fn from(items: &[Vec<u8>]) -> Self {
        Array::of(ValueType::String, items, |bytes| bytes.clone().into()).into()
    }
}
