//! The WGSL module of each format, alone: it validates, and on whatever adapter there is, a software one included, its
//! numbers are the CPU's.
//!
//! A harness of its own rather than the GPU back end: when a kernel gives a wrong number, this says whether the format
//! is to blame.

use halfbyte::quant::{ALL, Format};
use wgpu::util::DeviceExt;

use crate::common::{Random, nmse};

const KERNEL: &str = "
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dots: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let g = id.x;
    if g >= arrayLength(&dots) { return; }
    let i = 8u * g;
    let v = Group(x[i], x[i + 1u], x[i + 2u], x[i + 3u], x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]);
    let w = quant_group(g);
    weights[i] = w.v0;
    weights[i + 1u] = w.v1;
    weights[i + 2u] = w.v2;
    weights[i + 3u] = w.v3;
    weights[i + 4u] = w.v4;
    weights[i + 5u] = w.v5;
    weights[i + 6u] = w.v6;
    weights[i + 7u] = w.v7;
    let q = quant_read(g);
    var s = quant_step(q, 1u, v.v2, v.v3, quant_step(q, 0u, v.v0, v.v1, vec2<f32>()));
    var x_sums = group_sums(v.v0, v.v1) + group_sums(v.v2, v.v3);
    let x_half = x_sums.x + x_sums.y;
    var sum = quant_half(0.0, g, g, s, x_half);
    s = quant_step(q, 3u, v.v6, v.v7, quant_step(q, 2u, v.v4, v.v5, quant_rest(s)));
    x_sums += group_sums(v.v4, v.v5) + group_sums(v.v6, v.v7);
    dots[g] = quant_add(sum, g, g, s, x_sums, x_half);
}
";

/// The ways to multiply quants, and the error of each: with a bias of 1024, 7 to 10 bits of a sum are its own.
const DOTS: [(&str, &str, f64); 3] = [
    ("bytes", include_str!("../../shaders/dot/bytes.wgsl"), 1e-12),
    ("pairs", include_str!("../../shaders/dot/pairs.wgsl"), 5e-9),
    ("denormals", include_str!("../../shaders/dot/denormals.wgsl"), 1e-12),
];

fn source(format: &Format, dot: &str) -> String {
    let half = include_str!("../../shaders/half/packed.wgsl");
    let group = include_str!("../../shaders/lib/group.wgsl");
    let k_scale = include_str!("../../shaders/lib/k_scale.wgsl");
    let iq4 = include_str!("../../shaders/lib/iq4.wgsl");
    format!("{group}\n{half}\n{dot}\n{k_scale}\n{iq4}\n{}\n{KERNEL}", format.shader)
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Gpu {
    fn new() -> Self {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))
            .expect("an adapter; Debian and Ubuntu have a software one: apt install mesa-vulkan-drivers");
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))
            .expect("an adapter gives a device with the default limits");
        Self { device, queue }
    }

    /// The weights and the dot products with `x` of each group of 32.
    fn run(&self, format: &Format, dot: &str, planes: &[Vec<u8>], x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let device = &self.device;
        let storage = |contents: &[u8]| {
            let mut contents = contents.to_vec();
            contents.resize(contents.len().next_multiple_of(16), 0);
            let usage = wgpu::BufferUsages::STORAGE;
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage })
        };
        let output = |len: usize| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            let size = 4 * len as u64;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let (weights, dots) = (output(x.len()), output(x.len() / 32));
        let x_buffer = storage(bytemuck::cast_slice(x));
        let planes: Vec<_> = planes.iter().map(|plane| storage(plane)).collect();

        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(format.name),
            source: wgpu::ShaderSource::Wgsl(source(format, dot).into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(format.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let bind = |group: u32, buffers: &[&wgpu::Buffer]| {
            let entries: Vec<_> = (0..)
                .zip(buffers)
                .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
                .collect();
            let layout = &pipeline.get_bind_group_layout(group);
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
        };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind(0, &[&x_buffer, &weights, &dots]), &[]);
        pass.set_bind_group(1, &bind(1, &planes.iter().collect::<Vec<_>>()), &[]);
        pass.dispatch_workgroups((x.len() as u32 / 32).div_ceil(64), 1, 1);
        drop(pass);
        self.queue.submit([encoder.finish()]);
        (self.read(&weights), self.read(&dots))
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        let (size, usage) = (buffer.size(), wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let copy = self.device.create_buffer(&descriptor);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, size);
        self.queue.submit([encoder.finish()]);
        copy.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("a buffer to read from is mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the GPU finishes");
        let view = copy.get_mapped_range(..).expect("the buffer is mapped");
        bytemuck::pod_collect_to_vec(&view)
    }
}

/// Offsets in a block of the halves that are its scales.
fn scale_offsets(format: &Format) -> &'static [usize] {
    match format.name {
        "F32" | "F16" | "BF16" => &[],
        "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[0],
        "Q2_K" => &[80, 82],
        "Q3_K" => &[108],
        "MXFP4" => &[],
        "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
        "Q6_K" => &[208],
        name => panic!("where does {name} have its scales?"),
    }
}

/// Blocks of `n` weights with random quants; `scale` makes the scales of each.
fn blocks(format: &Format, n: usize, random: &mut Random, mut scale: impl FnMut(&mut Random) -> f32) -> Vec<u8> {
    if format.block_len == 1 {
        let weights: Vec<f32> = (0..n).map(|_| (scale(random) * random.normal()).clamp(-65504.0, 65504.0)).collect();
        let mut blocks = vec![0; format.bytes(n)];
        (format.quantize)(&weights, None, &mut blocks);
        return blocks;
    }
    let mut blocks = random.bytes(format.bytes(n));
    for block in blocks.chunks_mut(format.block_bytes) {
        for &at in scale_offsets(format) {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale(random)).to_le_bytes());
        }
        if format.name == "MXFP4" {
            // The exponent of a scale is a byte of its own.
            block[0] = (half::f16::from_f32(scale(random)).to_f32().to_bits() >> 23) as u8;
        }
    }
    blocks
}

fn pack(format: &Format, blocks: &[u8]) -> Vec<Vec<u8>> {
    let n = blocks.len() / format.block_bytes;
    let mut planes: Vec<Vec<u8>> = format.planes.iter().map(|p| vec![0; n * p.block_bytes]).collect();
    (format.pack)(blocks, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
    planes
}

fn dequantize(format: &Format, blocks: &[u8]) -> Vec<f32> {
    let mut weights = vec![0.0; blocks.len() / format.block_bytes * format.block_len];
    (format.dequantize)(blocks, &mut weights);
    weights
}

#[test]
fn modules_validate() {
    for (format, (_, dot, _)) in ALL.iter().flat_map(|format| DOTS.map(|dot| (format, dot))) {
        let source = source(format, dot);
        let module =
            naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{format}: {}", e.emit_to_string(&source)));
        // Neither f16 nor subgroups may be needed; the one capability is that of `unpack2x16float`.
        let capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{format}: {}", e.emit_to_string(&source)));

        let bound: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| Some((v.name.clone()?, v.binding?)))
            .filter(|(_, binding)| binding.group == 1)
            .map(|(name, binding)| (binding.binding, name))
            .collect();
        let expected: Vec<_> = (0..).zip(format.planes.iter().map(|p| format!("w_{}", p.name))).collect();
        assert_eq!(bound, expected, "{format}: planes in the order of their bindings");
    }
}

#[test]
fn weights_and_dots_are_the_cpus() {
    let gpu = Gpu::new();
    for format in ALL {
        // An odd number of super-blocks, more than a workgroup of groups.
        let n = 37 * 256;
        let mut random = Random::new(format.id.into());
        // As weights have them: both signs, and for the K formats as small as f16 denormals.
        let blocks = blocks(format, n, &mut random, |r| 1e-4 * r.normal());
        let x: Vec<f32> = (0..n).map(|i| if i % 97 == 0 { 30.0 } else { 1.0 } * (random.normal() + 0.1)).collect();
        let expected = dequantize(format, &blocks);
        let exact: Vec<f64> = std::iter::zip(expected.chunks(32), x.chunks(32))
            .map(|(w, x)| std::iter::zip(w, x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum())
            .collect();
        for (name, dot, limit) in DOTS {
            let (weights, dots) = gpu.run(format, dot, &pack(format, &blocks), &x);
            check_weights(format, &weights, &expected);
            let error = nmse(&dots, &exact);
            assert!(error <= limit, "{format}, {name}: a dot product has an nmse of {error:e} (limit {limit:e})");
        }
    }
}

#[test]
fn extreme_scales_are_the_cpus() {
    let gpu = Gpu::new();
    let scales = [0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 3e-5, -1.0, 1.0, 65504.0, -65504.0];
    for format in ALL {
        let mut random = Random::new(100 + u64::from(format.id));
        let n = 50 * 256;
        let blocks = blocks(format, n, &mut random, |r| scales[r.next() as usize % scales.len()]);
        // Powers of two, few at a time: every product is exact, so that a dot product has no excuse.
        let x: Vec<f32> = (0..n).map(|i| if i % 32 == i / 32 % 32 { 0.5 } else { 0.0 }).collect();
        let expected = dequantize(format, &blocks);
        let (weights, dots) = gpu.run(format, DOTS[0].1, &pack(format, &blocks), &x);
        check_weights(format, &weights, &expected);
        for (g, found) in dots.iter().enumerate() {
            let group = &expected[32 * g..][..32];
            let exact = 0.5 * group[g % 32];
            let limit = 1e-6 * largest(group);
            assert!((found - exact).abs() <= limit, "{format}: group {g}: {found:e}, not {exact:e}");
        }
    }
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |m, w| m.max(w.abs()))
}

/// The same bits; where a product is added to an offset, a driver may fuse the two: an ulp of the product then.
fn check_weights(format: &Format, found: &[f32], expected: &[f32]) {
    let has_offset = scale_offsets(format).len() == 2;
    for (g, (found, expected)) in std::iter::zip(found.chunks(32), expected.chunks(32)).enumerate() {
        let limit = if has_offset { f32::EPSILON * largest(expected) } else { 0.0 };
        for (i, (f, e)) in std::iter::zip(found, expected).enumerate() {
            assert!((f - e).abs() <= limit, "{format}: weight {i} of group {g} is {f:e}, not {e:e}");
        }
    }
}
