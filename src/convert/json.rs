//! JSON files of published models: objects with getters that name the file and the key where something is wrong.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The longest file that is read whole. Tokenizers of 262,144 tokens have 33 MB.
const MAX_BYTES: u64 = 1 << 28;

/// The bytes of a file that is to be read whole; `None` if there is no such file.
///
/// # Errors
/// If it cannot be read, or is too long to be what it should be.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let io = |action| move |source| Error::Io { action, path: path.into(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io("open"))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io("read"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Source { path: path.into(), what: format!("it is longer than {MAX_BYTES} bytes") });
    }
    Ok(Some(bytes))
}

/// A JSON object of a file.
#[derive(Debug, Clone)]
pub(super) struct Object {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Object {
    /// The object in a file; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or is no JSON object.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = bytes(path)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(map) => Ok(Some(Self { path: path.into(), map })),
            Err(error) => Err(Error::Source { path: path.into(), what: format!("not a JSON object: {error}") }),
        }
    }

    /// An object of the same file.
    pub(super) fn nested(&self, map: Map<String, Value>) -> Self {
        Self { path: self.path.clone(), map }
    }

    /// The object with the keys of the object `key` added to it, where there is one.
    pub(super) fn with_inner(mut self, key: &str) -> Self {
        if let Some(Value::Object(inner)) = self.map.get(key).cloned() {
            self.map.extend(inner);
        }
        self
    }

    /// The object with `defaults` for keys that it does not have.
    pub(super) fn with_defaults(mut self, defaults: &[(&str, f64)]) -> Self {
        for &(key, number) in defaults {
            let is_count = number.fract() == 0.0 && number >= 0.0;
            let value = if is_count { Value::from(number as u64) } else { Value::from(number) };
            self.map.entry(key).or_insert(value);
        }
        self
    }

    /// The error that `key` asks for what GGUF files of such models have no word for: they are all computed as if it was `known`.
    pub(super) fn beyond(&self, key: &str, known: &str) -> Error {
        Error::Unconvertible {
            path: self.path.clone(),
            what: format!("`{key}` is {}; readers of its GGUF file would compute with {known}", self.shown(key)),
            hint: "the file would be another model, so none is written; is config.json as it was published?".into(),
        }
    }

    /// The value of `key`, cut short.
    fn shown(&self, key: &str) -> String {
        self.get(key).map_or("nothing".into(), Value::to_string).chars().take(60).collect()
    }

    /// Fails if the first of `keys` that there is says none of `known`.
    pub(super) fn known_str(&self, keys: &[&str], known: &[&str]) -> Result<()> {
        match keys.iter().find(|key| self.get(key).is_some()) {
            Some(key) if !self.opt_str(key)?.is_some_and(|text| known.contains(&text)) => {
                Err(self.beyond(key, &known.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// The error that `key` has a value that is not `expected`.
    pub(super) fn bad(&self, key: &str, expected: &str) -> Error {
        let found = self.shown(key);
        Error::Source { path: self.path.clone(), what: format!("`{key}`: expected {expected}, found {found}") }
    }

    /// The value of `key`, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A value that `read` can make sense of.
    fn opt<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.bad(key, expected))).transpose()
    }

    /// A count that fits 32 bits.
    pub(super) fn opt_count(&self, key: &str) -> Result<Option<u32>> {
        self.opt(key, "a count", |value| value.as_u64()?.try_into().ok())
    }

    /// A count above zero.
    pub(super) fn count(&self, key: &str) -> Result<u32> {
        self.opt_count(key)?.filter(|&n| n > 0).ok_or_else(|| self.bad(key, "a count above 0"))
    }

    /// A finite number.
    pub(super) fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.opt(key, "a number", |value| Some(value.as_f64()? as f32).filter(|x| x.is_finite()))
    }

    /// A boolean.
    pub(super) fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub(super) fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.opt(key, "a string", Value::as_str)
    }

    /// An array of finite numbers.
    pub(super) fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let number = |value: &Value| Some(value.as_f64()? as f32).filter(|x| x.is_finite());
        self.opt(key, "an array of numbers", |value| value.as_array()?.iter().map(number).collect())
    }

    /// An array.
    pub(super) fn opt_array(&self, key: &str) -> Result<Option<&[Value]>> {
        self.opt(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object.
    pub(super) fn opt_object(&self, key: &str) -> Result<Option<Self>> {
        self.opt(key, "an object", |value| value.as_object().map(|map| self.nested(map.clone())))
    }

    /// Keys and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }
}
