//! The GPU back end: every op of a step in WGSL, dispatched through wgpu. The only folder that names wgpu.
//!
//! `device` opens an adapter; `fuse` turns a graph into nodes that one kernel each can do; `kernels` says which, `attention`,
//! `experts`, and `matmul` with `matrix` for the larger ones; `memory` plans where everything lies and `upload` packs the weights into it;
//! `shader` links, `bindings` lays out and `pipeline` compiles in the background, with `cache` on disk; `program` holds it all
//! and runs steps. `record` plays their calls, cut as `pace` says, and `choose` and `readback` bring their results; `cost`
//! counts what `profile` times. `inventory` lists the kernels that programs are made of, for `specimens` of models or for a
//! given one.

mod attention;
mod bindings;
mod cache;
mod choose;
mod cost;
mod denormals;
mod device;
mod experts;
mod fold;
mod fuse;
mod inputs;
mod inventory;
mod kernels;
mod matmul;
mod matrix;
mod matvec;
mod memory;
#[cfg(test)]
mod msl;
mod pace;
mod pipeline;
mod probe;
mod profile;
mod program;
mod readback;
mod record;
mod shader;
mod specimens;
mod tune;
mod upload;
#[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
mod vulkan;

use std::path::PathBuf;
use std::time::Duration;

pub use super::KvFormat;
pub use device::{AdapterInfo, AdapterKind, DeviceOptions, adapters};
pub use inventory::{Compiler, Kernel, Turn, kernels};
pub use matrix::{Matrices, matrices};
pub use program::{GpuProgram, compile};

/// How to compile a graph for a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which adapter, and what of it may be used.
    pub device: DeviceOptions,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Whether ops are fused; without it one kernel runs per op of the graph.
    pub fuse: bool,
    /// Whether each tensor that exists keeps memory of its own, so that [`Program::tensor`](super::Program::tensor) can
    /// read it after a step.
    pub keep_tensors: bool,
    /// Whether shaders check bounds and loops: slower, for tests.
    pub checked: bool,
    /// Folder where compiled pipelines are kept from one start to the next, where the driver gives them out.
    pub pipeline_cache: Option<PathBuf>,
    /// What a submission should take at most, so that no watchdog ends it; `None` for what the adapter needs.
    pub submission_budget: Option<Duration>,
    /// Whether a step whose commands did not run is an error. Without it, drivers that compute nothing can be used to measure
    /// what a step costs on the host.
    pub expect_results: bool,
    /// Whether steps are timed kernel by kernel, for [`Program::profile`](super::Program::profile).
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceOptions::default(),
            kv: KvFormat::F16,
            fuse: true,
            keep_tensors: false,
            checked: false,
            pipeline_cache: None,
            submission_budget: None,
            expect_results: true,
            profile: false,
        }
    }
}
