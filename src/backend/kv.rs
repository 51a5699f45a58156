//! How keys and values are stored: the formats, and how much they take.

use std::fmt;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Two bytes a number.
    #[default]
    F16,
    /// Blocks of 32 numbers of one byte with an f16 scale: half as much as f16, and less exact.
    Q8_0,
    /// Four bytes a number.
    F32,
}

impl KvFormat {
    /// Bytes of the keys, or of the values, of a head of `head_dim` numbers at one position.
    pub(crate) fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            KvFormat::F16 => 2 * head_dim,
            // Scales come in words of two.
            KvFormat::Q8_0 => head_dim + 4 * head_dim.div_ceil(64),
            KvFormat::F32 => 4 * head_dim,
        }
    }

    /// The file in `shaders/kv` and in `shaders/kv_store`.
    pub(crate) fn module(self) -> &'static str {
        match self {
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
            KvFormat::F32 => "f32",
        }
    }
}

impl fmt::Display for KvFormat {
    /// As ggml names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}
