//! The one error type: what went wrong, the facts, and what the user can do about it.
//!
//! Variants are by cause, not by module. A file, a GPU or a user can be wrong, and each of those is an `Err`
//! with its facts in fields; a broken promise inside this crate is a panic. [`Error::hint`] says what to do,
//! so that the command line can print `error: …` and then `hint: …`.

use std::path::PathBuf;
use std::sync::Arc;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong outside of our own code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "read", "map", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The bytes of a GGUF file are not what the format says.
    #[error("{}: not a usable GGUF file: {what}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the byte offset where it has one.
        what: String,
    },
    /// The bytes of a file of log-probabilities are not what the format says.
    #[error("{}: not a usable file of log-probabilities: {what}", path.display())]
    LogitsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A metadata key that the model needs is not in the file.
    #[error("the file has no metadata key `{key}`")]
    MissingKey {
        /// The full key.
        key: String,
    },
    /// A metadata key has another type, or a value outside of what makes sense.
    #[error("metadata key `{key}`: expected {expected}, found {found}")]
    BadKey {
        /// The full key.
        key: String,
        /// What the reader needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor that the model needs is not in the file.
    #[error("the file has no tensor `{tensor}`")]
    MissingTensor {
        /// GGUF name of the tensor.
        tensor: String,
    },
    /// A tensor has another shape than the metadata promise.
    #[error("tensor `{tensor}`: expected shape {expected:?}, found {found:?}")]
    TensorShape {
        /// GGUF name of the tensor.
        tensor: String,
        /// Shape from the hyper-parameters, outermost dimension first.
        expected: Vec<usize>,
        /// Shape in the file, outermost dimension first.
        found: Vec<usize>,
    },
    /// A tensor is stored in a format that halfbyte cannot compute with.
    #[error("tensor `{tensor}` is stored as {format}, which is not supported")]
    UnsupportedFormat {
        /// GGUF name of the tensor.
        tensor: String,
        /// ggml's name or number of the format.
        format: String,
    },
    /// The file's `general.architecture` is none that halfbyte knows.
    #[error("architecture `{found}` is not supported")]
    UnsupportedArchitecture {
        /// What the file says.
        found: String,
        /// What halfbyte knows.
        known: Vec<&'static str>,
    },
    /// The tokenizer described by the file cannot be built or used.
    #[error("tokenizer: {what}")]
    Tokenizer {
        /// What is wrong with it.
        what: String,
    },
    /// The file's tokenizer is of a kind that halfbyte does not know.
    #[error("{part} `{found}` is not supported")]
    UnsupportedTokenizer {
        /// "tokenizer model" or "pre-tokenizer".
        part: &'static str,
        /// What the file says.
        found: String,
        /// What halfbyte knows.
        known: Vec<&'static str>,
    },
    /// A chat template is wrong, refuses the messages, or is missing.
    #[error("chat template: {what}")]
    ChatTemplate {
        /// What it says, or what is wrong with it.
        what: String,
    },
    /// No adapter (GPU) fits what was asked for.
    #[error("no GPU adapter {}", match wanted { Some(name) => format!("whose name contains `{name}`"), None => "found".into() })]
    NoAdapter {
        /// The part of a name that was asked for.
        wanted: Option<String>,
        /// The adapters that there are.
        found: Vec<String>,
    },
    /// The GPU or its driver failed.
    #[error("GPU `{adapter}`: {what}")]
    Gpu {
        /// Name of the adapter.
        adapter: String,
        /// What it said.
        what: String,
    },
    /// The GPU went away (reset, unplugged, watchdog).
    #[error("GPU `{adapter}` was lost: {what}")]
    DeviceLost {
        /// Name of the adapter.
        adapter: String,
        /// What the driver said.
        what: String,
    },
    /// A plan needs more memory than there is.
    #[error("{what} needs {} of memory, but {} are available", Size(*needed_bytes), Size(*available_bytes))]
    OutOfMemory {
        /// What the memory is for.
        what: String,
        /// What it takes.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The conversation is longer than the context window that was set up.
    #[error("{} tokens and an answer do not fit the context of {n_ctx}", needed - 1)]
    ContextFull {
        /// Tokens that would be in the context, one of an answer among them.
        needed: usize,
        /// Size of the context window.
        n_ctx: usize,
    },
    /// A model's name could not be turned into a file.
    #[error("model `{model}`: {what}")]
    Model {
        /// What the user asked for.
        model: String,
        /// What went wrong.
        what: String,
        /// What the user can do.
        hint: String,
    },
    /// A file that a model is to be made of is not what it should be.
    #[error("{}: {what}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A published model is none that a GGUF file can be made of.
    #[error("{}: {what}", path.display())]
    Unconvertible {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, or cannot be said in a GGUF file.
        what: String,
        /// What the user can do.
        hint: String,
    },
    /// A weight that is to be stored is no number, or too large for the format.
    #[error("tensor `{tensor}`: {found} cannot be stored as {format}")]
    Unrepresentable {
        /// GGUF name of the tensor.
        tensor: String,
        /// ggml's name of the format.
        format: &'static str,
        /// The weight, or its magnitude.
        found: f32,
    },
    /// A file is no importance matrix.
    #[error("{}: not a usable importance matrix: {what}", path.display())]
    Imatrix {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The user wanted it to end.
    #[error("interrupted")]
    Interrupted,
    /// The logits of a step are not numbers.
    #[error("the device computed logits that are not numbers")]
    BadLogits,
    /// The engine met an error and gave up. Everyone who waits for it is told.
    #[error("the engine has stopped: {source}")]
    EngineFailed {
        /// The error that it met.
        source: Arc<Error>,
    },
    /// The engine's thread panicked.
    #[error("the engine has ended unexpectedly")]
    EngineEnded,
    /// An option or argument makes no sense.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// What would be right.
        hint: String,
    },
}

impl Error {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Error::Io { action: "create", source, .. } if matches!(source.kind(), NotFound | NotADirectory) => {
                Some("the folder that it is to lie in is not there: make it first, or name another".into())
            }
            Error::Io { action: "create", source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                Some("nothing can be written there: name a folder that you may write to".into())
            }
            Error::Io { action: "find", .. } => {
                Some("check the path; models can also be named: `-m smollm2-135m`, `-m hf:OWNER/REPO`".into())
            }
            Error::Io { source, .. } if source.kind() == NotFound => Some("check the path".into()),
            Error::Io { action: "keep", source, path } if is_full(source) => Some(format!(
                "make room where {} lies, or keep models elsewhere: HALFBYTE_CACHE, HF_HOME",
                path.display()
            )),
            // Where standard output leads to, its reader knows.
            Error::Io { source, path, .. } if is_full(source) && path.as_os_str() != "standard output" => {
                Some(format!("make room where {} lies, or write elsewhere", path.display()))
            }
            Error::Gguf { .. } => Some(
                "a file that was cut off has to be fetched again; one of another kind has to be made anew from the model as it was published"
                    .into(),
            ),
            Error::Imatrix { .. } => {
                Some("make it again: `halfbyte imatrix -m MODEL -f TEXT -o FILE`; or name the one that you mean".into())
            }
            Error::LogitsFile { .. } => {
                Some("make it again: `halfbyte perplexity MODEL TEXT --save-logits FILE`".into())
            }
            Error::MissingKey { .. }
            | Error::BadKey { .. }
            | Error::MissingTensor { .. }
            | Error::TensorShape { .. } => {
                Some("the file does not fit its own architecture: `halfbyte inspect FILE` shows what is in it".into())
            }
            Error::UnsupportedFormat { .. } => Some(format!(
                "supported formats: {}",
                crate::quant::ALL.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
            )),
            Error::UnsupportedArchitecture { known, .. } => {
                Some(format!("supported architectures: {}", known.join(", ")))
            }
            Error::UnsupportedTokenizer { part, known, .. } => Some(format!("supported: {part} {}", known.join(", "))),
            Error::ChatTemplate { .. } => Some(
                "name one with `--chat-template NAME|FILE`: alpaca, chatml, gemma, llama2, llama3, mistral, vicuna, zephyr".into(),
            ),
            Error::NoAdapter { found, .. } if found.is_empty() => Some(
                "install a Vulkan driver (Debian, Ubuntu: `apt install mesa-vulkan-drivers`), or use `--device cpu`"
                    .into(),
            ),
            Error::NoAdapter { found, .. } => Some(format!("adapters here: {}", found.join(", "))),
            Error::Gpu { .. } | Error::DeviceLost { .. } => {
                Some("try again, with a smaller context (`-c`), or with `--device cpu`".into())
            }
            Error::Source { .. } => Some(
                "a model is a folder as Hugging Face has them (config.json, *.safetensors, tokenizer.json or tokenizer.model), or \
                 Meta's (params.json, consolidated.00.pth, tokenizer.model); files that were cut off have to be fetched again"
                    .into(),
            ),
            Error::Unrepresentable { found, .. } if found.is_finite() => Some("store it as BF16 or F32".into()),
            Error::Unrepresentable { .. } => Some("the file that it comes from is broken: fetch it again".into()),
            Error::BadLogits => Some(
                "if they are none with `--device cpu` either, the model file is broken; else the device's driver".into(),
            ),
            Error::EngineFailed { source } => source.hint(),
            Error::EngineEnded => Some("this is a bug in halfbyte: please report what was printed above".into()),
            Error::OutOfMemory { .. } => Some("use a smaller context (`-c`) or a smaller model".into()),
            Error::ContextFull { .. } => Some("use a larger context (`-c`) or a shorter prompt".into()),
            Error::Model { hint, .. } | Error::Unconvertible { hint, .. } | Error::Usage { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            _ => None,
        }
    }
}

/// A number of bytes, for people.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let Some(unit) = (self.0.max(1).ilog2() / 10).checked_sub(1) else { return write!(f, "{} bytes", self.0) };
        let unit = UNITS.len().min(unit as usize + 1);
        write!(f, "{:.2} {}", self.0 as f64 / 1024_f64.powi(unit as i32), UNITS[unit - 1])
    }
}

/// Whether a write failed for want of room: on the disk, in a quota, or because of a limit on a file's size.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn what_cannot_be_written_has_another_hint_than_what_cannot_be_read() {
        let hint = |action, kind: ErrorKind| {
            Error::Io { action, path: "file".into(), source: kind.into() }.hint().unwrap_or_default()
        };
        assert!(hint("open", ErrorKind::NotFound).contains("check the path"));
        assert!(hint("create", ErrorKind::NotFound).contains("make it first"));
        assert!(hint("create", ErrorKind::PermissionDenied).contains("may write to"));
        assert!(hint("create", ErrorKind::StorageFull).contains("make room"));
    }

    #[test]
    fn sizes_are_for_people() {
        let text = |bytes| Size(bytes).to_string();
        assert_eq!(
            [0, 1023, 1024, 1536 << 20, 5 << 40].map(text),
            ["0 bytes", "1023 bytes", "1.00 KiB", "1.50 GiB", "5.00 TiB"]
        );
        assert_eq!(text(u64::MAX), "16384.00 PiB");
    }
}
