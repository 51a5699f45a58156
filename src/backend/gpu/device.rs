//! Adapters and the opened device: which GPUs there are, which one is best, what it can do, and whether it still lives.
//!
//! A GPU can fail at any moment and wgpu reports that through callbacks; [`Device::check`] turns what they collected
//! into an `Err` at the next step, so that nothing panics and nothing is lost silently.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::matrix::{self, Matrices, MatrixUnit};
use crate::error::{Error, Result};

/// What kind of hardware an adapter is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// Shares the CPU's memory.
    Integrated,
    /// Behind a hypervisor, or of unknown kind.
    Other,
    /// The CPU, pretending.
    Software,
}

/// One adapter as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Name of the GPU.
    pub name: String,
    /// Metal, Vulkan, Dx12, …
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// Kind of hardware.
    pub kind: AdapterKind,
    /// Largest storage binding.
    pub max_binding_bytes: u64,
    /// Largest buffer.
    pub max_buffer_bytes: u64,
    /// Smallest and largest subgroup, where subgroup operations can be used.
    pub subgroups: Option<(u32, u32)>,
    /// Whether shaders can compute with f16.
    pub f16: bool,
    /// Rows and columns of the cooperative matrices that it offers, of f16 with f32 sums. Whether they are right is found
    /// out by [`matrices`](super::matrices).
    pub matrix_side: Option<u32>,
}

/// All adapters, best first: discrete, integrated, other, software.
pub fn adapters() -> Vec<AdapterInfo> {
    enumerate(&instance()).iter().map(|(_, info)| info.clone()).collect()
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // wgpu's default flags keep validation of indirect calls in release builds; no dispatch here is indirect.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

fn enumerate(instance: &wgpu::Instance) -> Vec<(wgpu::Adapter, AdapterInfo)> {
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let mut all: Vec<_> = adapters
        .into_iter()
        .map(|adapter| {
            let info = describe(&adapter);
            (adapter, info)
        })
        .collect();
    all.sort_by_key(|(_, info)| info.kind);
    all
}

fn describe(adapter: &wgpu::Adapter) -> AdapterInfo {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    AdapterInfo {
        name: info.name,
        backend: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other | wgpu::DeviceType::VirtualGpu => AdapterKind::Other,
        },
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        subgroups: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        matrix_side: matrix::offered(adapter),
    }
}

/// What a device may use; less than the adapter offers when a caller restricts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Smallest subgroup, where subgroup operations can be used.
    pub subgroup: Option<u32>,
    /// Whether shaders can compute with f16.
    pub f16: bool,
    /// Largest storage binding, a multiple of 256.
    pub max_binding_bytes: u64,
    /// Largest buffer, a multiple of 256.
    pub max_buffer_bytes: u64,
    /// Storage buffers that a kernel may bind.
    pub max_bindings: u32,
    /// Alignment of a binding's offset.
    pub offset_alignment: u64,
    /// Whether the CPU pretends to be a GPU (no coalescing to care for).
    pub software: bool,
    /// Whether buffers that shaders read can be written by the CPU where they lie, in memory that both share.
    pub mapped: bool,
    /// Cooperative matrices that may be used.
    pub matrix: Option<MatrixUnit>,
    /// Whether f16 numbers that are denormal are read as what they are.
    pub denormals: bool,
    /// Whether there is an instruction for the dot product of four bytes.
    pub dp4a: bool,
}

impl Capabilities {
    /// What every device has that WebGPU runs on.
    pub(crate) const LEAST: Self = Self {
        dp4a: false,
        max_bindings: 8,
        mapped: false,
        matrix: None,
        denormals: false,
        subgroup: None,
        f16: false,
        max_binding_bytes: 128 << 20,
        max_buffer_bytes: 256 << 20,
        offset_alignment: 256,
        software: false,
    };
}

/// How to open a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Part of the adapter's name, any case; the best adapter without it.
    pub name: Option<String>,
    /// Whether subgroup operations may be used where there are any.
    pub subgroups: bool,
    /// Whether f16 shader arithmetic may be used where there is any.
    pub f16: bool,
    /// Whether cooperative matrices may be used where there are any.
    pub matrices: Matrices,
    /// Whether a software adapter runs the kernels that hardware does, slower: for tests.
    pub as_hardware: bool,
    /// Bound on a storage binding, below the adapter's own.
    pub max_binding_bytes: Option<u64>,
    /// Whether weights may be written where they lie, where the CPU shares the memory, instead of being copied there.
    pub mapped: bool,
    /// Whether to multiply bytes, four at a time; where hardware can if not given. No device refuses: others expand it.
    pub dp4a: Option<bool>,
    /// Whether the driver checks what shaders access, where it can.
    pub robust: bool,
    /// Whether timestamps are wanted, where there are any.
    pub timestamps: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            name: None,
            subgroups: true,
            f16: true,
            matrices: Matrices::Auto,
            as_hardware: false,
            max_binding_bytes: None,
            mapped: true,
            dp4a: None,
            robust: false,
            timestamps: false,
        }
    }
}

/// Lanes that every subgroup has at least. Metal can't be asked, and wgpu answers 4; all of Apple's GPUs have 32.
fn smallest_subgroup(info: &wgpu::AdapterInfo) -> u32 {
    let is_apples = info.backend == wgpu::Backend::Metal && info.name.starts_with("Apple");
    if is_apples { 32 } else { info.subgroup_min_size }
}

/// AMD since Vega 20, NVIDIA since Pascal and Intel since Xe have an instruction for the dot product of four bytes; Apple
/// has none, and drivers for others expand it, too.
fn has_dp4a(adapter: &wgpu::Adapter) -> bool {
    const VENDORS: [u32; 3] = [0x1002, 0x10de, 0x8086];
    let info = adapter.get_info();
    VENDORS.contains(&info.vendor) && info.device_type != wgpu::DeviceType::Cpu && info.backend != wgpu::Backend::Metal
}

#[cfg_attr(any(target_vendor = "apple", target_arch = "wasm32"), expect(unused_variables, reason = "Vulkan's"))]
fn open_adapter(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
    robust: bool,
) -> Result<(wgpu::Device, wgpu::Queue), String> {
    #[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
    if !robust {
        // SAFETY: the shaders are our own, and index within what is bound; a test runs whole models with and without
        // checks, and compares.
        if let Some(opened) = unsafe { super::vulkan::open_without_robustness(adapter, descriptor) } {
            return opened;
        }
    }
    pollster::block_on(adapter.request_device(descriptor)).map_err(|e| e.to_string())
}

/// What the callbacks of a device have collected.
#[derive(Debug, Default)]
struct Faults {
    error: Mutex<Option<String>>,
    lost: Mutex<Option<String>>,
}

/// An opened device with its queue.
pub(crate) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: AdapterInfo,
    pub caps: Capabilities,
    /// Name of this device's file of compiled pipelines, where the driver gives them out.
    pub cache_key: Option<String>,
    /// What became of its cooperative matrices, for people.
    pub matrices: String,
    faults: Arc<Faults>,
    created: AtomicU64,
}

impl Device {
    /// Opens the adapter that fits.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits, [`Error::Gpu`] if the driver refuses.
    pub(crate) fn open(options: &DeviceOptions) -> Result<Self> {
        let all = enumerate(&instance());
        let found = || all.iter().map(|(_, info)| format!("{} ({})", info.name, info.backend)).collect();
        let wanted = options.name.as_ref().map(|name| name.to_lowercase());
        let (adapter, info) = all
            .iter()
            .find(|(_, info)| wanted.as_ref().is_none_or(|part| info.name.to_lowercase().contains(part)))
            .ok_or_else(|| Error::NoAdapter { wanted: options.name.clone(), found: found() })?;

        let mut features = wgpu::Features::empty();
        if options.subgroups {
            features |= wgpu::Features::SUBGROUP;
        }
        if options.f16 {
            features |= wgpu::Features::SHADER_F16;
        }
        features |= wgpu::Features::PIPELINE_CACHE;
        if options.timestamps {
            features |= wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        }
        // A card's own memory is written through a narrow window, if at all: there a copy by the card is faster.
        if options.mapped && matches!(info.kind, AdapterKind::Integrated | AdapterKind::Software) {
            features |= wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
        }
        let (matrix, matrices) = matrix::choose(adapter, info, options);
        if matrix.is_some() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let features = features & adapter.features();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("halfbyte"),
            required_features: features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: matrix::experimental(matrix),
            ..Default::default()
        };
        let (device, queue) = open_adapter(adapter, &descriptor, options.robust)
            .map_err(|what| Error::Gpu { adapter: info.name.clone(), what })?;

        let limits = adapter.limits();
        let binding = limits.max_storage_buffer_binding_size.min(options.max_binding_bytes.unwrap_or(u64::MAX));
        let caps = Capabilities {
            subgroup: features.contains(wgpu::Features::SUBGROUP).then(|| smallest_subgroup(&adapter.get_info())),
            f16: features.contains(wgpu::Features::SHADER_F16),
            max_binding_bytes: binding.min(limits.max_buffer_size) / 256 * 256,
            max_buffer_bytes: limits.max_buffer_size / 256 * 256,
            max_bindings: limits.max_storage_buffers_per_shader_stage,
            offset_alignment: u64::from(
                limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment).max(256),
            ),
            software: info.kind == AdapterKind::Software && !options.as_hardware,
            matrix,
            denormals: false,
            dp4a: options.dp4a.unwrap_or_else(|| has_dp4a(adapter)),
            mapped: features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
        };
        let cache_key = wgpu::util::pipeline_cache_key(&adapter.get_info());
        let cache_key = cache_key.filter(|_| features.contains(wgpu::Features::PIPELINE_CACHE));
        let faults = Arc::new(Faults::default());
        let collected = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&collected.error).get_or_insert(error.to_string());
        }));
        let collected = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&collected.lost).get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        Ok(Self { device, queue, info: info.clone(), caps, cache_key, matrices, faults, created: AtomicU64::new(0) })
    }

    /// What went wrong since the device was opened, if anything did. A device does not recover.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`].
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(what) = lock(&self.faults.lost).clone() {
            return Err(Error::DeviceLost { adapter: self.info.name.clone(), what });
        }
        match lock(&self.faults.error).clone() {
            Some(what) => Err(self.error(what)),
            None => Ok(()),
        }
    }

    /// An error of this device.
    pub(crate) fn error(&self, what: impl ToString) -> Error {
        Error::Gpu { adapter: self.info.name.clone(), what: what.to_string() }
    }

    /// Counts a buffer, bind group or pipeline that is being made.
    pub(crate) fn count(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    /// Buffers, bind groups and pipelines made so far.
    pub(crate) fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// If the device failed.
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits until a submission and those before it are done; all of them if none is given.
    ///
    /// # Errors
    /// If the device failed.
    pub(crate) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        self.check()?;
        waited.map(|_| ()).map_err(|e| self.error(e))
    }

    /// Makes a buffer.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has no room for it.
    pub(crate) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.create(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    }

    /// Makes a buffer that the CPU writes first, mapped and filled with zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has no room for it.
    pub(crate) fn mapped_buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.create(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true })
    }

    fn create(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        self.count();
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(descriptor);
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(Error::OutOfMemory {
                what: format!("{} on {}", descriptor.label.unwrap_or_default(), self.info.name),
                needed_bytes: descriptor.size,
                available_bytes: 0,
            }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
