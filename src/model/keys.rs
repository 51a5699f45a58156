//! Hyper-parameters as the file has them: under the architecture's prefix, and only with values that make sense.
//!
//! A count out of a hostile file ends up as the length of a loop or of an allocation, and a zero as a divisor; so each
//! getter says what it takes, and everything else is an error that names the key.

use super::source::Source;
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

/// No real model comes near this width, and the product of two of them still fits 64 bits.
pub(super) const MAX_WIDTH: usize = 1 << 24;

/// The metadata of a file, with the prefix of its architecture.
pub(super) struct Keys<'a> {
    source: &'a dyn Source,
    arch: &'static str,
    n_ctx: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn new(source: &'a dyn Source, arch: &'static str) -> Self {
        Self { source, arch, n_ctx: 0 }
    }

    /// The same, for a graph over contexts of `n_ctx` positions.
    pub(super) fn for_context(self, n_ctx: usize) -> Self {
        Self { n_ctx, ..self }
    }

    /// Positions in the contexts that the graph is for.
    pub(super) fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The prefix.
    pub(super) fn arch(&self) -> &'static str {
        self.arch
    }

    /// The file.
    pub(super) fn source(&self) -> &'a dyn Source {
        self.source
    }

    fn metadata(&self) -> &'a Metadata {
        self.source.metadata()
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// The error that `key` has a value that is not `expected`.
    pub(super) fn bad(&self, key: &str, expected: impl Into<String>, found: impl ToString) -> Error {
        Error::BadKey { key: self.full(key), expected: expected.into(), found: found.to_string() }
    }

    /// A count from 1 to `max`.
    pub(super) fn count(&self, key: &str, max: usize) -> Result<usize> {
        self.opt_count(key, max)?.ok_or_else(|| Error::MissingKey { key: self.full(key) })
    }

    /// A count from 1 to `max`; `None` if the key is absent.
    pub(super) fn opt_count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.metadata().opt_usize(&self.full(key))? {
            Some(n) if n == 0 || n > max => Err(self.bad(key, format!("1 to {max}"), n)),
            n => Ok(n),
        }
    }

    /// As [`opt_count`](Self::opt_count), where files also write 0 for what is absent.
    pub(super) fn opt_count_or_zero(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.metadata().opt_usize(&self.full(key))? {
            Some(0) => Ok(None),
            _ => self.opt_count(key, max),
        }
    }

    /// A number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<f32> {
        self.opt_positive(key)?.ok_or_else(|| Error::MissingKey { key: self.full(key) })
    }

    /// A number above zero; `None` if the key is absent.
    pub(super) fn opt_positive(&self, key: &str) -> Result<Option<f32>> {
        match self.metadata().opt_f32(&self.full(key))? {
            Some(x) if !(x.is_finite() && x > 0.0) => Err(self.bad(key, "a number above 0", x)),
            x => Ok(x),
        }
    }

    /// As [`opt_positive`](Self::opt_positive), where files also write 0 for what is absent.
    pub(super) fn opt_positive_or_zero(&self, key: &str) -> Result<Option<f32>> {
        match self.metadata().opt_f32(&self.full(key))? {
            Some(0.0) => Ok(None),
            _ => self.opt_positive(key),
        }
    }

    /// Whether something is so in each layer: in all but every n-th, or layer by layer. Without the key, n is `default`.
    pub(super) fn pattern(&self, key: &str, default: usize, n_layer: usize) -> Result<Vec<bool>> {
        let full = self.full(key);
        if !matches!(self.metadata().get(&full), Some(Value::Array(_))) {
            let n = self.opt_count(key, MAX_WIDTH)?.unwrap_or(default);
            return Ok((1..=n_layer).map(|i| !i.is_multiple_of(n)).collect());
        }
        let layers = self.metadata().bools(&full)?;
        if layers.len() != n_layer {
            return Err(self.bad(key, format!("{n_layer} layers"), layers.len()));
        }
        Ok(layers)
    }

    /// A boolean; `None` if the key is absent.
    pub(super) fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.metadata().opt_bool(&self.full(key))
    }

    /// An integer that has to be one of `known`; `None` if the key is absent.
    pub(super) fn one_of(&self, key: &str, known: &[usize]) -> Result<Option<usize>> {
        match self.metadata().opt_usize(&self.full(key))? {
            Some(n) if !known.contains(&n) => {
                Err(self.bad(key, format!("one of {known:?} (others are not supported)"), n))
            }
            n => Ok(n),
        }
    }

    /// A string; `None` if the key is absent.
    pub(super) fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata().opt_str(&self.full(key))
    }
}
