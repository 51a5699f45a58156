//! Makes GGUF files: out of other GGUF files, whose weights are stored in other formats then, and out of what models are
//! published as.
//!
//! Every way ends in a [`Plan`]: metadata, and for each tensor its name, shape, format and where its rows come from. A plan
//! holds no weights. [`Plan::write`] goes through the tensors once, some rows at a time, so that a model of any size needs
//! the same little memory.

pub mod budget;
mod check;
mod hf;
pub mod imatrix;
mod json;
mod meta;
mod plan;
pub mod quantize;
mod rows;
mod source;
mod tensors;
mod vocab;

pub use hf::classes;
pub use plan::{Advance, Plan, Planned, Progress};
pub use source::plan;

use crate::error::{Error, Result};

/// Runs `work` with so many threads; with one for each processor if not said.
///
/// # Errors
/// If the system gives no threads, or `work` fails.
pub fn with_threads<T: Send>(threads: Option<usize>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Error::Usage {
        what: format!("cannot start threads: {error}"),
        hint: "use fewer threads (`-t`)".into(),
    })?;
    pool.install(work)
}
