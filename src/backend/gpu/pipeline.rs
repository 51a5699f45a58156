//! Compiles kernels: each distinct [`KernelKey`] once, several at a time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::Device;
use super::shader::KernelKey;
use crate::error::Result;

/// Compiled kernels by key.
pub(crate) struct Pipelines {
    by_key: HashMap<KernelKey, wgpu::ComputePipeline>,
}

impl Pipelines {
    /// Compiles all `keys`, with bounds checks and bounded loops if `checked`. Drivers compile on the calling thread, so
    /// there are as many threads as the CPU has.
    ///
    /// # Errors
    /// If the driver refuses a kernel.
    pub(crate) fn compile(device: &Device, checked: bool, keys: impl IntoIterator<Item = KernelKey>) -> Result<Self> {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort();
        keys.dedup();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let work = || {
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                let pipeline = compile(device, checked, key);
                done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.clone(), pipeline);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(keys.len());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        device.check()?;
        Ok(Self { by_key: done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) })
    }

    /// The pipeline of a key that was compiled.
    pub(crate) fn get(&self, key: &KernelKey) -> &wgpu::ComputePipeline {
        &self.by_key[key]
    }
}

/// Compiles one kernel, on the calling thread. Errors of the driver go where wgpu's do.
pub(crate) fn compile(device: &Device, checked: bool, key: &KernelKey) -> wgpu::ComputePipeline {
    device.count();
    let (text, constants) = key.link();
    let label = key.to_string();
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(text.into()) };
    let module = if checked {
        device.device.create_shader_module(descriptor)
    } else {
        // SAFETY: the shaders are our own, bound their loops, and index within what is bound; a test runs whole models
        // with and without the checks and compares.
        unsafe { device.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
    };
    device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    })
}
