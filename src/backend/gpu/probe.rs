//! Known matrices, multiplied by a kernel: tells a device that computes wrongly from one that does not.
//!
//! The matrices are small, and unpleasant on purpose: rows from 10⁻⁶ to 10⁶, rows of zeros, sizes that are no multiple of
//! a tile, an odd number of groups.

use super::device::Device;
use super::kernels::Shape;
use super::matmul::Many;
use super::pipeline;
use super::shader::KernelKey;
use crate::error::Result;
use crate::quant::Format;

/// Known matrices.
pub(crate) struct Probe {
    format: &'static Format,
    k: usize,
    /// Blocks of `format`.
    blocks: Vec<u8>,
    w: Vec<f32>,
    pub x: Vec<f32>,
    /// `[T, M]`: the result, and by how much an f16 kernel may miss it.
    expected: Vec<(f64, f64)>,
}

impl Probe {
    /// More than a tile of 64, no multiple of it or of 16; even, as packed planes need.
    const M: usize = 70;
    /// The same for rows of x.
    const T: usize = 67;

    pub(crate) fn new(format: &'static Format) -> Self {
        // Three groups: kernels take two at a time.
        let k = if format.block_len > 32 { format.block_len } else { 96 };
        let number = |i: usize| ((i.wrapping_mul(0x9e37_79b9) >> 7) % 2001) as f32 / 1000.0 - 1.0;
        let size = |row: usize| [1.0, 1e-2, 16.0, 0.0, 0.25][row % 5];
        let numbers: Vec<f32> = (0..Self::M * k).map(|i| size(i / k) * number(i)).collect();
        let mut blocks = vec![0; format.bytes(numbers.len())];
        (format.quantize)(&numbers, None, &mut blocks);
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
    pub(crate) fn run(&self, device: &Device, many: &Many) -> std::result::Result<(), String> {
        // Errors of wgpu belong to the scope, not to the device, which must stay usable.
        let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let pipeline = pipeline::compile(device, false, &self.key(many), None, None);
        let found = self.multiply(device, &pipeline, many.tile);
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

    /// The kernel that a model with such weights would use.
    fn key(&self, many: &Many) -> KernelKey {
        let quant = [("quant", self.format.name), ("dot", "bytes"), ("half", "packed"), ("x", "direct")];
        let rest = [("tile", "rows"), ("bias", "none"), ("epilogue", "store"), ("fold", "none")];
        let modules = quant.into_iter().chain(rest).collect();
        KernelKey { kernel: many.kernel, modules, constants: many.constants.clone() }
    }

    /// What the device makes of it, `[T, M]`.
    fn multiply(&self, device: &Device, pipeline: &wgpu::ComputePipeline, tile: [usize; 2]) -> Result<Vec<f32>> {
        // What a kernel that writes nothing would leave.
        let y = input(device, bytemuck::cast_slice(&vec![f32::MAX; self.expected.len()]))?;
        let groups = self.bind(device, pipeline, &y)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let result = device.buffer("probe", y.size(), usage)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        for (index, group) in (0..).zip(&groups) {
            pass.set_bind_group(index, group, &[]);
        }
        pass.dispatch_workgroups(Self::M.div_ceil(tile[0]) as u32, Self::T.div_ceil(tile[1]) as u32, 1);
        drop(pass);
        encoder.copy_buffer_to_buffer(&y, 0, &result, 0, y.size());
        device.queue.submit([encoder.finish()]);
        result.map_async(wgpu::MapMode::Read, .., |_| ());
        device.wait()?;
        let view = result.get_mapped_range(..4 * self.expected.len() as u64).map_err(|e| device.error(e))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// Both bind groups, the result being `y`.
    fn bind(
        &self,
        device: &Device,
        pipeline: &wgpu::ComputePipeline,
        y: &wgpu::Buffer,
    ) -> Result<[wgpu::BindGroup; 2]> {
        let n_blocks = self.blocks.len() / self.format.block_bytes;
        let mut planes: Vec<_> = self.format.planes.iter().map(|p| vec![0; n_blocks * p.block_bytes]).collect();
        (self.format.pack)(&self.blocks, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        let planes = planes.iter().map(|plane| input(device, plane)).collect::<Result<Vec<_>>>()?;
        let (m, groups) = (Self::M as u32, (self.k / 32) as u32);
        let shape = Shape { m, groups, y_stride: m, ..Shape::default() };
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
        let planes: Vec<_> = (0..).zip(&planes).collect();
        Ok([group(0, &[(0, &x), (1, y), (4, &step), (5, &shape)]), group(1, &planes)])
    }
}

/// A buffer that begins with `bytes`, for any purpose.
pub(crate) fn input(device: &Device, bytes: &[u8]) -> Result<wgpu::Buffer> {
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
    use crate::backend::gpu::device::{Capabilities, DeviceOptions};
    use crate::backend::gpu::matrix::{Matrices, MatrixUnit};
    use crate::backend::gpu::{matmul, tune};
    use crate::quant;

    fn device() -> Device {
        let options = DeviceOptions { matrices: Matrices::Off, ..DeviceOptions::default() };
        Device::open(&options).expect("a Vulkan adapter; ./scripts/test installs one")
    }

    #[test]
    fn the_probe_passes_for_kernels_that_are_right() {
        let device = device();
        for format in quant::ALL {
            let probe = Probe::new(format);
            for many in [matmul::plain(), matmul::tiled(tune::MATMUL_TILED), matmul::tiled(tune::EXPERTS_TILED)] {
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
        let wrong = probe.run(&device, &matmul::tiled(tune::MATMUL_TILED)).expect_err("x is not what was expected");
        assert!(wrong.starts_with("the self-test gave ") && wrong.contains(" at [0, "), "{wrong}");
        let constants = vec![("WG", 0_u32.into()), ("X_LEN", 1_u32.into())];
        let many = Many { constants, ..matmul::tiled(tune::MATMUL_TILED) };
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

    /// The kernel's text, in which sums take the place of matrices. A matrix of W or x is then where it begins in its
    /// tile; a matrix of sums is a number, and its elements are spread over the subgroup.
    fn without_matrices(text: &str, side: usize) -> String {
        let mut text = text
            .replace("enable wgpu_cooperative_matrix;", "")
            .replace(&format!("coopLoadT<coop_mat{side}x{side}<f16, A>>(&w_tile["), "operand(")
            .replace(&format!("coopLoad<coop_mat{side}x{side}<f16, B>>(&x_tile["), "operand(")
            .replace(&format!("], {side}u)"), &format!(", {side}u)"))
            .replace("], 64u)", ", 64u)")
            .replace("coopMultiplyAdd(", "multiply_add(")
            // A bound that the compiler does not know keeps it from unrolling, which would take a minute.
            .replace("k < STEP / SIDE", "k < STEP / SIDE * min(shape.m, 1u)")
            .replace("halves_scales(tile, i);", "halves_scales(tile, i); size = WG / count; lane = i % size;");
        let sums = format!("coopLoad<coop_mat{side}x{side}<f32, C>>(&strip[0, {side}u)");
        let n = text.matches(&sums).count();
        for i in 0..n {
            text = text.replacen(&sums, &format!("zero({i}u)"), 1);
        }
        let text = text.replace("coopStore(", "store(").replace("&strip[", "");
        assert!(n * side * side == 512 + 512 * usize::from(side == 16) && !text.contains("coop_mat"), "{text}");
        text + "
            var<private> size: u32;
            var<private> lane: u32;
            var<private> sums: array<f32, 1024>;
            fn zero(c: u32) -> u32 {
                for (var e = lane; e < SIDE * SIDE; e += size) { sums[c * SIDE * SIDE + e] = strip[e]; }
                return c;
            }
            fn operand(at: u32, pitch: u32) -> u32 { return at; }
            fn multiply_add(a: u32, b: u32, c: u32) -> u32 {
                for (var e = lane; e < SIDE * SIDE; e += size) {
                    for (var k = 0u; k < SIDE * min(shape.m, 1u); k++) {
                        let product = f32(w_tile[a + e % SIDE * SIDE + k]) * f32(x_tile[b + e / SIDE * SIDE + k]);
                        sums[c * SIDE * SIDE + e] += product;
                    }
                }
                return c;
            }
            fn store(c: u32, at: u32, pitch: u32) {
                for (var e = lane; e < SIDE * SIDE; e += size) {
                    strip[at + e / SIDE * pitch + e % SIDE] = sums[c * SIDE * SIDE + e];
                }
            }"
    }

    /// Runs anywhere: everything of these kernels but the matrices themselves, in fewer and more than four subgroups too.
    #[test]
    fn kernels_with_matrices_are_right_without_them() {
        let device = device();
        let size = device.caps.subgroup.expect("every adapter that runs tests has subgroups");
        let probe = Probe::new(quant::ALL[4]);
        for (side, n_subgroups) in [(8, 4), (8, 2), (16, 4), (16, 1), (16, 8)] {
            let matrix = Some(MatrixUnit { side, workgroup: n_subgroups * size });
            let many = matmul::many(&Capabilities { matrix, ..device.caps });
            let (text, constants) = probe.key(&many).link();
            let text = without_matrices(&text, side as usize);
            let source = wgpu::ShaderSource::Wgsl(text.into());
            let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
            let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            let found = probe.multiply(&device, &pipeline, many.tile).expect("the kernel runs");
            assert_eq!(probe.judge(&found), Ok(()), "{} in {n_subgroups} subgroups", many.kernel);
        }
    }
}
