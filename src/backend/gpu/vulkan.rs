//! A Vulkan device whose driver does not check every access of a shader once more.
//!
//! wgpu turns `robustBufferAccess` on whenever a driver has it, whatever the shaders: drivers without bounds checks in
//! hardware then compare each index with the size of its buffer and split vector loads into scalars, since a vector might
//! lie across the end. Metal has no such mode, and our shaders index within what is bound (`tests/it/gpu.rs` runs models
//! with and without checks), so the device is made here, from the same list of features less these, and handed to wgpu.

use ash::vk;
use wgpu::hal;

/// Opens `adapter` without robust buffer access; `None` where its back end is not Vulkan.
///
/// # Safety
///
/// The shaders of the device have to access buffers within their bindings only.
pub(crate) unsafe fn open_without_robustness(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Option<Result<(wgpu::Device, wgpu::Queue), String>> {
    // SAFETY: the guard lives until the device was made from it, and nothing is destroyed through it.
    let hal_adapter = unsafe { adapter.as_hal::<hal::api::Vulkan>() }?;
    // SAFETY: promised by the caller.
    let opened = unsafe { open(&hal_adapter, descriptor) };
    drop(hal_adapter);
    Some(opened.and_then(|device| {
        // SAFETY: `device` was made from this adapter, with the features and limits of `descriptor`.
        unsafe { adapter.create_device_from_hal(device, descriptor) }.map_err(|e| e.to_string())
    }))
}

/// # Safety
///
/// As of [`open_without_robustness`].
unsafe fn open(
    adapter: &hal::vulkan::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<hal::OpenDevice<hal::api::Vulkan>, String> {
    // wgpu takes the first queue of the first family, too.
    const FAMILY: u32 = 0;
    let features = descriptor.required_features;
    let extensions = adapter.required_device_extensions(features);
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(FAMILY).queue_priorities(&[1.0])];
    let mut wanted = adapter.physical_device_features(&extensions, features);
    let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    let mut info = wanted.add_to_device_create(info);
    let mut core = vk::PhysicalDeviceFeatures::default();
    if !info.p_enabled_features.is_null() {
        // SAFETY: it points into `wanted`, which outlives `info`.
        core = unsafe { *info.p_enabled_features };
    }
    core.robust_buffer_access = vk::FALSE;
    info.p_enabled_features = &raw const core;
    // SAFETY: the chain consists of structures in `wanted`, borrowed mutably by `info`, and read through it only.
    unsafe { without_robustness2(info.p_next) };

    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: all that `info` points to is alive: `queues`, `names`, `wanted` and `core`.
    let raw = unsafe { instance.create_device(adapter.raw_physical_device(), &info, None) };
    let raw = raw.map_err(|e| e.to_string())?;
    // SAFETY: made from this adapter, with its extensions and its features; the two that are off are checks that no
    // shader of ours needs, and wgpu takes the device over.
    let opened = unsafe {
        let limits = &descriptor.required_limits;
        adapter.device_from_raw(raw, None, &extensions, features, limits, &descriptor.memory_hints, FAMILY, 0)
    };
    opened.map_err(|e| e.to_string())
}

/// Turns `robustBufferAccess2` off in a chain of features.
///
/// # Safety
///
/// `chain` is null or a valid chain of structures that may be written to.
unsafe fn without_robustness2(chain: *const std::ffi::c_void) {
    let mut next = chain.cast_mut().cast::<vk::BaseOutStructure<'_>>();
    while !next.is_null() {
        // SAFETY: every structure of a chain begins like this one.
        let structure = unsafe { &mut *next };
        if structure.s_type == vk::StructureType::PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT {
            let features = next.cast::<vk::PhysicalDeviceRobustness2FeaturesEXT<'_>>();
            // SAFETY: its type says so.
            unsafe { (*features).robust_buffer_access2 = vk::FALSE };
        }
        next = structure.p_next;
    }
}
