//! Cooperative matrices: whether a device may use them, found out by multiplying on it.
//!
//! Drivers differ in what they offer, shader compilers in what they make of it, and nothing of this can be seen from
//! outside: a transposed tile is a wrong number, not an error. So the kernel that a model would use multiplies known
//! matrices first, and is used only if the CPU finds the same. The matrices are small, and unpleasant on purpose: rows
//! from 10⁻⁶ to 10⁶, a row of zeros, sizes that are no multiple of a tile.

use super::device::{AdapterInfo, AdapterKind, Device, DeviceOptions};
use super::kernels::Shape;
use super::matmul::{self, Many};
use super::pipeline;
use super::shader::KernelKey;
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

/// Known matrices.
struct Probe {
    format: &'static Format,
    k: usize,
    /// Blocks of `format`.
    blocks: Vec<u8>,
    w: Vec<f32>,
    x: Vec<f32>,
    /// `[T, M]`: the result, and by how much an f16 kernel may miss it.
    expected: Vec<(f64, f64)>,
}

impl Probe {
    /// More than a tile of 64, no multiple of it or of 16; even, as packed planes need.
    const M: usize = 70;
    /// The same for rows of x.
    const T: usize = 67;

    fn new(format: &'static Format) -> Self {
        // Three groups: kernels take two at a time.
        let k = if format.block_len > 32 { format.block_len } else { 96 };
        let number = |i: usize| ((i.wrapping_mul(0x9e37_79b9) >> 7) % 2001) as f32 / 1000.0 - 1.0;
        let size = |row: usize| [1.0, 1e-2, 16.0, 0.0, 0.25][row % 5];
        let numbers: Vec<f32> = (0..Self::M * k).map(|i| size(i / k) * number(i)).collect();
        let mut blocks = vec![0; format.bytes(numbers.len())];
        (format.quantize)(&numbers, &mut blocks);
        let mut w = numbers;
        (format.dequantize)(&blocks, &mut w);
        let size = |row: usize| [1.0, 1e6, 1e-6, 0.0, 300.0][row % 5];
        let x = (0..Self::T * k).map(|i| size(i / k) * number(3 * i + 1)).collect();
        let mut probe = Self { format, k, blocks, w, x, expected: Vec::new() };
        probe.expected = (0..Self::T * Self::M).map(|i| probe.dot(i / Self::M, i % Self::M)).collect();
        probe
    }

    /// Row `t` of x times row `r` of W. Two operands, each rounded by 2⁻¹¹ of itself at most, miss the sum by 2⁻¹⁰ |w| |x| at
    /// most; the rest is for numbers that become denormal.
    fn dot(&self, t: usize, r: usize) -> (f64, f64) {
        let pairs = || self.w[r * self.k..][..self.k].iter().zip(&self.x[t * self.k..][..self.k]);
        let products = || pairs().map(|(&w, &x)| f64::from(w) * f64::from(x));
        let (w2, x2) = pairs().fold((0.0, 0.0), |(a, b), (&w, &x)| (a + f64::from(w * w), b + f64::from(x).powi(2)));
        (products().sum(), 1.02 / 1024.0 * (w2 * x2).sqrt())
    }

    /// Multiplies with `many` and compares.
    fn run(&self, device: &Device, many: &Many) -> std::result::Result<(), String> {
        // Errors of wgpu belong to the scope, not to the device, which must stay usable.
        let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let found = self.multiply(device, many);
        let internal = pollster::block_on(internal.pop());
        if let Some(error) = pollster::block_on(scope.pop()).or(internal) {
            return Err(format!("the driver refuses the kernel: {}", first_line(&error.to_string())));
        }
        self.judge(&found.map_err(|error| error.to_string())?)
    }

    fn judge(&self, found: &[f32]) -> std::result::Result<(), String> {
        for (i, (&found, &(expected, limit))) in found.iter().zip(&self.expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            // Written so that NaN fails.
            let right = error <= limit;
            if !right {
                let (t, r) = (i / Self::M, i % Self::M);
                return Err(format!("the self-test gave {found} instead of {expected:.6} at [{t}, {r}]"));
            }
        }
        Ok(())
    }

    /// What the device makes of it, `[T, M]`.
    fn multiply(&self, device: &Device, many: &Many) -> Result<Vec<f32>> {
        let x_module = if many.has_x { vec![("x", "direct")] } else { vec![] };
        let modules = [("quant", self.format.name), ("bias", "none"), ("epilogue", "store")];
        let modules = x_module.into_iter().chain(modules).collect();
        let key = KernelKey { kernel: many.kernel, modules, constants: many.constants.clone() };
        let pipeline = pipeline::compile(device, false, &key, None, None);

        let n_blocks = self.blocks.len() / self.format.block_bytes;
        let mut planes: Vec<_> = self.format.planes.iter().map(|p| vec![0; n_blocks * p.block_bytes]).collect();
        (self.format.pack)(&self.blocks, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        let planes = planes.iter().map(|plane| input(device, plane)).collect::<Result<Vec<_>>>()?;
        let (m, groups) = (Self::M as u32, (self.k / 32) as u32);
        let shape = Shape { m, groups, y_stride: m, y_offset: 0, section: 0 };
        // What a kernel that writes nothing would leave.
        let y = input(device, bytemuck::cast_slice(&vec![f32::MAX; self.expected.len()]))?;
        let x = input(device, bytemuck::cast_slice(&self.x))?;
        let step = input(device, bytemuck::bytes_of(&[Self::T as u32; 4]))?;
        let shape = input(device, bytemuck::bytes_of(&shape))?;
        let group = |index: u32, buffers: &[(u32, &wgpu::Buffer)]| {
            let entries: Vec<_> = buffers
                .iter()
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding: *binding,
                    resource: buffer.as_entire_binding(),
                })
                .collect();
            device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("probe"),
                layout: &pipeline.get_bind_group_layout(index),
                entries: &entries,
            })
        };
        let groups =
            [group(0, &[(0, &x), (1, &y), (4, &step), (5, &shape)]), group(1, &(0..).zip(&planes).collect::<Vec<_>>())];

        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let result = device.buffer("probe", y.size(), usage)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        for (index, group) in (0..).zip(&groups) {
            pass.set_bind_group(index, group, &[]);
        }
        let [tile_m, tile_t] = many.tile;
        pass.dispatch_workgroups(Self::M.div_ceil(tile_m) as u32, Self::T.div_ceil(tile_t) as u32, 1);
        drop(pass);
        encoder.copy_buffer_to_buffer(&y, 0, &result, 0, y.size());
        device.queue.submit([encoder.finish()]);
        result.map_async(wgpu::MapMode::Read, .., |_| ());
        device.wait()?;
        let view = result.get_mapped_range(..4 * self.expected.len() as u64).map_err(|e| device.error(e))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

/// A buffer that begins with `bytes`, for any purpose.
fn input(device: &Device, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::STORAGE
        | wgpu::BufferUsages::UNIFORM
        | wgpu::BufferUsages::COPY_DST
        | wgpu::BufferUsages::COPY_SRC;
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(32), 0);
    let buffer = device.buffer("probe", padded.len() as u64, usage)?;
    device.queue.write_buffer(&buffer, 0, &padded);
    Ok(buffer)
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        let options = DeviceOptions { matrices: Matrices::Off, ..DeviceOptions::default() };
        Device::open(&options).expect("a Vulkan adapter; ./scripts/test installs one")
    }

    #[test]
    fn the_probe_passes_for_kernels_that_are_right() {
        let device = device();
        for format in quant::ALL {
            let probe = Probe::new(format);
            for many in [matmul::plain(), matmul::tiled()] {
                assert_eq!(probe.run(&device, &many), Ok(()), "{format}, {}", many.kernel);
            }
        }
        device.check().expect("no error is left behind");
    }

    #[test]
    fn the_probe_tells_what_is_wrong() {
        let device = device();
        let mut probe = Probe::new(quant::ALL[3]);
        probe.x[5] += 1.0;
        let wrong = probe.run(&device, &matmul::tiled()).expect_err("x is not what was expected");
        assert!(wrong.starts_with("the self-test gave ") && wrong.contains(" at [0, "), "{wrong}");
        let many = Many { constants: vec![("WG", 0_u32.into()), ("X_LEN", 1_u32.into())], ..matmul::tiled() };
        let wrong = probe.run(&device, &many).expect_err("no workgroup has no invocations");
        assert!(wrong.starts_with("the driver refuses the kernel: "), "{wrong}");
        device.check().expect("no error is left behind");
    }

    #[test]
    fn a_wrong_number_anywhere_is_found() {
        let probe = Probe::new(quant::ALL[7]);
        let right: Vec<f32> = probe.expected.iter().map(|&(expected, _)| expected as f32).collect();
        assert_eq!(probe.judge(&right), Ok(()));
        let last = right.len() - 1;
        for (at, wrong) in [(0, f32::NAN), (last, f32::MAX), (last, right[last] * 1.01 + 1e-3), (300, 0.0)] {
            let mut found = right.clone();
            found[at] = wrong;
            assert!(probe.judge(&found).is_err(), "{wrong} at {at}");
        }
    }
}
