//! Keys and values in the file's order, with getters that name the key they missed.
//!
//! A getter comes in two forms. `u32(key)` demands the key; `opt_u32(key)` gives `None` where it is absent, and an
//! error where it is there with another type: a value that is wrong must not pass for one that is missing.

use super::names::NameIndex;
use super::value::{StringArray, Value};
use crate::error::{Error, Result};

/// The metadata of a file.
#[derive(Debug)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: NameIndex,
}

impl Metadata {
    /// Indexes `entries`; a key that appears twice is the error.
    pub(crate) fn new(entries: Vec<(String, Value)>) -> Result<Self, String> {
        let by_key = NameIndex::new(&entries, |e| &e.0).map_err(|key| format!("metadata key `{key}` appears twice"))?;
        Ok(Self { entries, by_key })
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(&self.entries, key, |e| &e.0).map(|i| &self.entries[i].1)
    }

    /// A value that `read` can make sense of.
    fn opt<'a, T>(&'a self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Error::BadKey {
            key: key.into(),
            expected: expected.into(),
            found: format!("{} {value}", value.value_type()),
        })
    }
}

/// Each line: documentation, the two names, the type, what the type is called in errors, and how a value is read.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt_name:ident -> $t:ty, $expected:literal, $read:expr;)*) => {
        impl Metadata {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// If the key is absent or of another type.
            pub fn $name(&self, key: &str) -> Result<$t> {
                self.$opt_name(key)?.ok_or_else(|| Error::MissingKey { key: key.into() })
            }

            $(#[$doc])*
            /// `None` if the key is absent.
            ///
            /// # Errors
            /// If the key is there with another type.
            pub fn $opt_name(&self, key: &str) -> Result<Option<$t>> {
                self.opt(key, $expected, $read)
            }
        )*}
    };
}

getters! {
    /// An integer of any width that fits.
    u32, opt_u32 -> u32, "an unsigned 32-bit integer", |v| v.int()?.try_into().ok();
    /// An integer of any width that fits.
    usize, opt_usize -> usize, "an integer that is not negative", |v| v.int()?.try_into().ok();
    /// A float; a double is rounded.
    f32, opt_f32 -> f32, "a float", Value::float;
    /// A boolean.
    bool, opt_bool -> bool, "a boolean", |v| match v {
        Value::Bool(v) => Some(*v),
        _ => None,
    };
    /// A string.
    str, opt_str -> &str, "a string in UTF-8", |v| match v {
        Value::String(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    /// An array of integers of any width that fit.
    u32s, opt_u32s -> Vec<u32>, "an array of unsigned 32-bit integers", |v| items(v, |v| v.int()?.try_into().ok());
    /// An array of integers of any width that fit.
    i32s, opt_i32s -> Vec<i32>, "an array of signed 32-bit integers", |v| items(v, |v| v.int()?.try_into().ok());
    /// An array of floats; doubles are rounded.
    f32s, opt_f32s -> Vec<f32>, "an array of floats", |v| items(v, |v| v.float());
    /// An array of booleans.
    bools, opt_bools -> Vec<bool>, "an array of booleans", |v| items(v, |v| match v {
        Value::Bool(v) => Some(v),
        _ => None,
    });
}

impl Metadata {
    /// An array of strings, which stay in the file.
    ///
    /// # Errors
    /// If the key is absent or of another type.
    pub fn strings(&self, key: &str) -> Result<StringArray> {
        self.opt_strings(key)?.ok_or_else(|| Error::MissingKey { key: key.into() })
    }

    /// An array of strings, which stay in the file. `None` if the key is absent.
    ///
    /// # Errors
    /// If the key is there with another type.
    pub fn opt_strings(&self, key: &str) -> Result<Option<StringArray>> {
        self.opt(key, "an array of strings", |v| match v {
            Value::Array(array) => StringArray::new(key, array),
            _ => None,
        })
    }
}

/// The items of an array, if it is one and each of them is a `T`.
fn items<T>(value: &Value, read: impl Fn(Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(array) => array.iter().map(read).collect(),
        _ => None,
    }
}
