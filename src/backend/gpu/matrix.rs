//! Cooperative matrices: whether a device may use them, found out by multiplying on it.
//!
//! Drivers differ in what they offer, shader compilers in what they make of it, and nothing of this can be seen from
//! outside: a transposed tile is a wrong number, not an error. So the kernel that a model would use multiplies known
//! matrices first, and is used only if the CPU finds the same.

use super::device::{AdapterInfo, AdapterKind, Device, DeviceOptions};
use super::matmul;
use super::probe::Probe;
use crate::error::Result;
use crate::quant::{self, Format};

/// Whether cooperative matrices may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Matrices {
    /// On hardware that passes the self-test. A software adapter makes them out of plain sums, slowly.
    #[default]
    Auto,
    /// Wherever the self-test passes.
    On,
    /// Nowhere.
    Off,
    /// As [`Matrices::On`], with a self-test that expects something else than it asks for: shows what happens on a
    /// device that computes wrongly.
    Distrust,
}

/// Matrices of f16 whose products are summed in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MatrixUnit {
    /// Rows and columns, 8 or 16.
    pub side: u32,
    /// Invocations of a workgroup: four subgroups.
    pub workgroup: u32,
}

impl MatrixUnit {
    /// In subgroups of at least `subgroup`.
    pub(crate) fn new(side: u32, subgroup: u32) -> Self {
        Self { side, workgroup: 4 * subgroup }
    }
}

/// The largest square matrices that an adapter offers with operands of f16 and sums of f32.
pub(crate) fn offered(adapter: &wgpu::Adapter) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let needed =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    if !adapter.features().contains(needed) {
        return None;
    }
    let configurations = adapter.cooperative_matrix_properties();
    let fits = |side: u32| {
        configurations
            .iter()
            .any(|c| [c.m_size, c.n_size, c.k_size] == [side; 3] && (c.ab_type, c.cr_type) == (F16, F32))
    };
    [16, 8].into_iter().find(|&side| fits(side))
}

/// The matrices that a device would use, if they are right, and what to say about them.
pub(crate) fn choose(
    adapter: &wgpu::Adapter,
    info: &AdapterInfo,
    options: &DeviceOptions,
) -> (Option<MatrixUnit>, String) {
    let Some(side) = info.matrix_side else { return (None, "no cooperative matrices".into()) };
    let name = name(side);
    let why = match options.matrices {
        Matrices::Off => "switched off",
        _ if !options.subgroups || !options.f16 => "need subgroups and f16",
        Matrices::Auto if info.kind == AdapterKind::Software && !options.as_hardware => {
            "made of plain sums by a software adapter"
        }
        _ => {
            // Metal can't be asked, and wgpu answers 4 to 64; GPUs with such matrices have 32.
            let metal = info.backend == "Metal";
            let subgroup = if metal { 32 } else { adapter.get_info().subgroup_min_size };
            return (Some(MatrixUnit::new(side, subgroup)), format!("{name}, not tested"));
        }
    };
    (None, format!("{name} are not used: {why}"))
}

/// What wgpu wants for a feature that it calls experimental.
pub(crate) fn experimental(matrix: Option<MatrixUnit>) -> wgpu::ExperimentalFeatures {
    match matrix {
        None => wgpu::ExperimentalFeatures::disabled(),
        // SAFETY: what may be unsound is a shader that misuses cooperative matrices. Those of `shaders/` load and store
        // within their tiles, all subgroups together, and are not used before they passed the self-test.
        Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
    }
}

fn name(side: u32) -> String {
    format!("{side} × {side} cooperative matrices")
}

/// The same device, with [`Capabilities::matrix`](super::device::Capabilities::matrix) only where weights of `format`
/// come out right, and a note that says so.
///
/// # Errors
/// If the device failed and can't be opened again.
pub(crate) fn prove(mut device: Device, options: &DeviceOptions, format: &'static Format) -> Result<Device> {
    let Some(unit) = device.caps.matrix else { return Ok(device) };
    let mut probe = Probe::new(format);
    if options.matrices == Matrices::Distrust {
        probe.x[1] += 1.0;
    }
    let name = name(unit.side);
    let verdict = probe.run(&device, &matmul::many(&device.caps));
    if device.check().is_err() {
        // What failed has taken the device along.
        let options = DeviceOptions { matrices: Matrices::Off, ..options.clone() };
        device = Device::open(&options)?;
    }
    device.matrices = match verdict {
        Ok(()) => format!("{name}, tested with {format}"),
        Err(why) => {
            device.caps.matrix = None;
            format!("{name} are not used: {why}")
        }
    };
    Ok(device)
}

/// What becomes of the cooperative matrices of the adapter that `options` name.
///
/// # Errors
/// If there is no such adapter, or it can't be opened.
pub fn matrices(options: &DeviceOptions) -> Result<String> {
    // Any format tells whether the matrices work.
    Ok(prove(Device::open(options)?, options, quant::ALL[0])?.matrices)
}
