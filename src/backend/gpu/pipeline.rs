//! Compiles kernels: each distinct [`KernelKey`] once, in the background, in the order in which they were asked for.
//!
//! Drivers compile on the calling thread, and take from milliseconds to a tenth of a second a kernel. So nobody waits for
//! all of them: threads compile while weights are loaded, a step waits for the kernels that it runs, and one that nobody
//! has begun yet is compiled by whoever needs it.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::bindings::{Layout, Layouts, Signature, is_writable};
use super::cache::PipelineCache;
use super::device::Device;
use super::shader::KernelKey;
use crate::error::Result;

/// A kernel that is or will be compiled.
#[derive(Clone)]
pub(crate) struct Kernel(Arc<Entry>);

struct Entry {
    key: KernelKey,
    layout: Arc<Layout>,
    shared: Arc<Shared>,
    pipeline: OnceLock<wgpu::ComputePipeline>,
}

/// What all kernels have in common.
struct Shared {
    device: Arc<Device>,
    checked: bool,
    cache: Option<PipelineCache>,
}

impl Shared {
    fn save(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

impl Kernel {
    /// The kernel and what fills its slots.
    pub(crate) fn name(&self) -> String {
        self.0.key.to_string()
    }

    /// The layout of a group.
    pub(crate) fn group_layout(&self, group: usize) -> &wgpu::BindGroupLayout {
        &self.0.layout.groups[group]
    }

    /// The pipeline, once it is compiled. What the driver has against it is found in [`Device::check`].
    pub(crate) fn pipeline(&self) -> &wgpu::ComputePipeline {
        let Entry { key, layout, shared, pipeline } = &*self.0;
        let cache = shared.cache.as_ref().map(|cache| &cache.cache);
        pipeline.get_or_init(|| compile(&shared.device, shared.checked, key, Some(&layout.pipeline), cache))
    }

    /// Runs it over nothing, and waits for that.
    fn warm_up(&self, idle: &Idle) {
        let device = &self.0.shared.device;
        let group = |layout: &wgpu::BindGroupLayout, signature: &Signature| {
            let resource = |ty| if is_writable(ty) { &idle.written } else { &idle.read };
            let entry = |&(binding, ty): &(u32, _)| wgpu::BindGroupEntry {
                binding,
                resource: resource(ty).as_entire_binding(),
            };
            let entries: Vec<_> = signature.iter().map(entry).collect();
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout, entries: &entries };
            device.device.create_bind_group(&descriptor)
        };
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(self.pipeline());
        let layout = &self.0.layout;
        for (index, (group_layout, signature)) in (0..).zip(layout.groups.iter().zip(&layout.signatures)) {
            pass.set_bind_group(index, &group(group_layout, signature), &[]);
        }
        pass.dispatch_workgroups(0, 1, 1);
        drop(pass);
        // A failure is found by the step that needs the kernel.
        let _ = device.wait_for(Some(device.queue.submit([encoder.finish()])));
    }
}

/// Something to bind where nothing is read or written.
struct Idle {
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Idle {
    fn new(device: &Device) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE;
        let read = device.buffer("idle", 256, usage | wgpu::BufferUsages::UNIFORM)?;
        Ok(Self { read, written: device.buffer("idle", 256, usage)? })
    }
}

/// Kernels by key, and the threads that compile them. Dropped, it waits for what is being compiled, and leaves the rest.
pub(crate) struct Pipelines {
    shared: Arc<Shared>,
    layouts: Layouts,
    by_key: HashMap<KernelKey, Kernel>,
    waiting: Arc<Mutex<VecDeque<Kernel>>>,
    /// Whether steps are run, so that the device has something better to do than to warm up.
    at_work: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipelines {
    /// Without kernels. Shaders check bounds and bound loops if `checked`; compiled ones are kept in `cache_folder`.
    pub(crate) fn new(device: &Arc<Device>, checked: bool, cache_folder: Option<&Path>) -> Self {
        let cache = cache_folder.filter(|_| !checked).and_then(|folder| PipelineCache::load(device, folder));
        let shared = Arc::new(Shared { device: device.clone(), checked, cache });
        let (waiting, at_work) = (Arc::default(), Arc::default());
        Self { shared, layouts: Layouts::default(), by_key: HashMap::new(), waiting, at_work, threads: Vec::new() }
    }

    /// The kernel of a key, of which a call fills the binding numbers `bound`, group by group.
    pub(crate) fn kernel(&mut self, key: &KernelKey, bound: &[Vec<u32>]) -> Kernel {
        if let Some(known) = self.by_key.get(key) {
            return known.clone();
        }
        // Counted here: when it is compiled depends on threads, and a step makes nothing that it did not know of.
        self.shared.device.count();
        let layout = self.layouts.of(&self.shared.device, &key.link().0, bound);
        let entry = Entry { key: key.clone(), layout, shared: self.shared.clone(), pipeline: OnceLock::new() };
        let kernel = Kernel(Arc::new(entry));
        self.by_key.insert(key.clone(), kernel.clone());
        lock(&self.waiting).push_back(kernel.clone());
        kernel
    }

    /// Starts to compile what was asked for, on as many threads as the CPU has. Where the system gives none, kernels are
    /// compiled when they are needed.
    ///
    /// A software driver compiles a second time, from its own form to the CPU's, at the first dispatch. There each kernel is
    /// run over nothing, until the first step comes.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn start(&mut self) -> Result<()> {
        let n = std::thread::available_parallelism().map_or(1, usize::from).min(lock(&self.waiting).len());
        let idle =
            if self.shared.device.caps.software { Some(Arc::new(Idle::new(&self.shared.device)?)) } else { None };
        let n_running = Arc::new(AtomicUsize::new(n));
        for _ in 0..n {
            let (waiting, n_running, shared) = (self.waiting.clone(), n_running.clone(), self.shared.clone());
            let (at_work, idle) = (self.at_work.clone(), idle.clone());
            let work = move || {
                while let Some(kernel) = { lock(&waiting).pop_front() } {
                    kernel.pipeline();
                    if let Some(idle) = idle.as_ref().filter(|_| !at_work.load(Ordering::Relaxed)) {
                        kernel.warm_up(idle);
                    }
                }
                // Whoever is last, so that a process that is killed later has not compiled in vain.
                if n_running.fetch_sub(1, Ordering::AcqRel) == 1 {
                    shared.save();
                }
            };
            self.threads.extend(std::thread::Builder::new().name("compiler".into()).spawn(work));
        }
        Ok(())
    }

    /// Waits until everything that was asked for is compiled.
    pub(crate) fn wait(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic of a driver's compiler has been printed, and whoever needs the kernel meets it again.
            let _ = thread.join();
        }
    }

    /// Steps are run from now on.
    pub(crate) fn go_to_work(&self) {
        self.at_work.store(true, Ordering::Relaxed);
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        self.go_to_work();
        lock(&self.waiting).clear();
        self.wait();
        self.shared.save();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compiles a kernel on the calling thread; without a layout, with one that wgpu derives.
pub(crate) fn compile(
    device: &Device,
    checked: bool,
    key: &KernelKey,
    layout: Option<&wgpu::PipelineLayout>,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
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
        layout,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            zero_initialize_workgroup_memory: false,
        },
        cache,
    })
}
