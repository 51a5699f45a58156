//! Whether a device reads f16 denormals as the numbers that they are.
//!
//! `shaders/dot/denormals.wgsl` takes small integers for f16 numbers, which saves an instruction for two weights wherever it
//! is right. A GPU may flush denormals to zero instead, or only a compiler that folds the conversion into a multiply-add;
//! no query tells. So the very functions are run, on known numbers, when a program is compiled.

use super::device::Device;
use super::pipeline;
use super::probe::input;
use super::shader::KernelKey;
use crate::error::Result;

const N: usize = 32;

/// What is multiplied: all nibbles and many bytes, by whole numbers of both signs.
fn numbers() -> (Vec<u32>, Vec<f32>) {
    let words = (0..2 * N as u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x0123_4567).collect();
    let x = (0..2 * N).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    (words, x)
}

/// `Σ q·x` of each word's nibbles and bytes, as the kernel has them.
fn expected(words: &[u32], x: &[f32]) -> Vec<f32> {
    let quad = |i: usize| &x[4 * (i % 16)..][..4];
    let sum = |q: [u8; 4], x: &[f32]| q.iter().zip(x).map(|(&q, x)| f32::from(q) * x).sum::<f32>();
    let of = |i: usize| {
        let bytes = words[i].to_le_bytes();
        let nibbles = sum(bytes.map(|b| b & 15), quad(i)) + sum(bytes.map(|b| b >> 4), quad(i + 5));
        [nibbles, sum(bytes, quad(i))]
    };
    (0..N).flat_map(of).collect()
}

/// The kernel, with what multiplies in its slot.
pub(crate) fn key(dot: &'static str) -> KernelKey {
    KernelKey { kernel: "denormals", modules: vec![("dot", dot)], constants: vec![] }
}

/// Notes in the device's capabilities whether it keeps f16 denormals. A software adapter has no use for them.
pub(crate) fn prove(device: &mut Device) {
    if !device.caps.software {
        device.caps.denormals = is_right(device, "denormals");
    }
}

/// Whether `dot` gives whole numbers on the device.
fn is_right(device: &Device, dot: &'static str) -> bool {
    let (words, x) = numbers();
    // Whatever goes wrong here, goes wrong again where it can't be done without, and is reported there.
    multiply(device, dot, &words, &x).is_ok_and(|found| found == expected(&words, &x))
}

fn multiply(device: &Device, dot: &'static str, words: &[u32], x: &[f32]) -> Result<Vec<f32>> {
    let pipeline = pipeline::compile(device, false, &key(dot), None, None);
    let bytes = size_of::<[f32; 2 * N]>() as u64;
    let (w, x) = (input(device, bytemuck::cast_slice(words))?, input(device, bytemuck::cast_slice(x))?);
    let y = input(device, &vec![0xff; bytes as usize])?;
    let entries: Vec<_> = (0..)
        .zip([&w, &x, &y])
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = &pipeline.get_bind_group_layout(0);
    let group = device.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
    let result = device.buffer("denormals", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
    let mut encoder = device.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&y, 0, &result, 0, bytes);
    device.queue.submit([encoder.finish()]);
    result.map_async(wgpu::MapMode::Read, .., |_| ());
    device.wait()?;
    let view = result.get_mapped_range(..).map_err(|e| device.error(e))?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}

#[cfg(test)]
mod tests {
    use super::super::device::DeviceOptions;
    use super::*;

    #[test]
    fn every_way_to_multiply_is_right_here_and_another_function_is_not() {
        let device = Device::open(&DeviceOptions::default()).expect("a Vulkan adapter; ./scripts/test installs one");
        for dot in ["bytes", "pairs", "denormals"] {
            assert!(is_right(&device, dot), "{dot}");
        }
        // These give the sum that they are given: no product at all.
        assert!(!is_right(&device, "integers"));
    }
}
