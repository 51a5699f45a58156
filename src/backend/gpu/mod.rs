//! The GPU back end: every op of a step in WGSL, dispatched through wgpu. The only folder that names wgpu.
//!
//! `device` opens an adapter; `fuse` turns a graph into nodes that one kernel each can do; `kernels` says which; `memory`
//! packs and uploads the weights; `shader` and `pipeline` link and compile; `program` holds it all and runs steps.

mod device;
mod fuse;
mod kernels;
mod memory;
mod pipeline;
mod program;
mod shader;
mod tune;
#[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
mod vulkan;

pub use device::{AdapterInfo, AdapterKind, DeviceOptions, adapters};
pub use kernels::KvFormat;
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
}

impl Default for Options {
    fn default() -> Self {
        Self { device: DeviceOptions::default(), kv: KvFormat::F16, fuse: true, keep_tensors: false, checked: false }
    }
}
