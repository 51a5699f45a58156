//! Layouts of bind groups, read from the declarations of a linked shader.
//!
//! wgpu can derive a layout from a compiled pipeline, but then bind groups have to wait for the compiler, and no two
//! pipelines share a layout. Made from the text they exist before, and kernels that bind alike share them, so that a step
//! does not bind again what is bound.

use std::collections::HashMap;
use std::sync::Arc;

use super::device::Device;

/// The type of each binding of a group, ascending.
pub(crate) type Signature = Vec<(u32, wgpu::BufferBindingType)>;

/// Layouts made so far.
#[derive(Default)]
pub(crate) struct Layouts {
    groups: HashMap<Signature, wgpu::BindGroupLayout>,
    pipelines: HashMap<Vec<Signature>, Arc<Layout>>,
}

/// The layouts of a pipeline and its groups.
pub(crate) struct Layout {
    pub pipeline: wgpu::PipelineLayout,
    pub groups: Vec<wgpu::BindGroupLayout>,
    pub signatures: Vec<Signature>,
}

/// Whether a shader may write a binding.
pub(crate) fn is_writable(ty: wgpu::BufferBindingType) -> bool {
    ty == wgpu::BufferBindingType::Storage { read_only: false }
}

impl Layouts {
    /// The layout of a shader of which a call fills these binding numbers, group by group.
    ///
    /// # Panics
    /// If the shader does not declare one of them: the tables of calls are wrong then.
    pub(crate) fn of(&mut self, device: &Device, text: &str, bound: &[Vec<u32>]) -> Arc<Layout> {
        let declared: HashMap<(u32, u32), _> = text.lines().filter_map(declaration).collect();
        let signature = |group: u32, bindings: &Vec<u32>| {
            let mut signature: Signature = bindings.iter().map(|&b| (b, declared[&(group, b)])).collect();
            signature.sort_unstable_by_key(|(binding, _)| *binding);
            signature
        };
        let signatures: Vec<Signature> = (0..).zip(bound).map(|(group, bindings)| signature(group, bindings)).collect();
        if let Some(known) = self.pipelines.get(&signatures) {
            return known.clone();
        }
        let groups: Vec<_> = signatures.iter().map(|signature| self.group(device, signature)).collect();
        device.count();
        let descriptor = wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &groups.iter().map(Some).collect::<Vec<_>>(),
            immediate_size: 0,
        };
        let pipeline = device.device.create_pipeline_layout(&descriptor);
        let layout = Arc::new(Layout { pipeline, groups, signatures: signatures.clone() });
        self.pipelines.insert(signatures, layout.clone());
        layout
    }

    fn group(&mut self, device: &Device, signature: &Signature) -> wgpu::BindGroupLayout {
        let make = || {
            let entry = |&(binding, ty): &(u32, wgpu::BufferBindingType)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            };
            let entries: Vec<_> = signature.iter().map(entry).collect();
            device.count();
            device.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.groups.entry(signature.clone()).or_insert_with(make).clone()
    }
}

/// Group, number and type of the buffer that a line of WGSL declares.
fn declaration(line: &str) -> Option<((u32, u32), wgpu::BufferBindingType)> {
    let (group, rest) = line.strip_prefix("@group(")?.split_once(')')?;
    let (binding, rest) = rest.trim_start().strip_prefix("@binding(")?.split_once(')')?;
    let (space, _) = rest.trim_start().strip_prefix("var<")?.split_once('>')?;
    let ty = match space.replace(' ', "").as_str() {
        "uniform" => wgpu::BufferBindingType::Uniform,
        "storage,read_write" => wgpu::BufferBindingType::Storage { read_only: false },
        "storage" | "storage,read" => wgpu::BufferBindingType::Storage { read_only: true },
        _ => return None,
    };
    Some(((group.trim().parse().ok()?, binding.trim().parse().ok()?), ty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let read_only = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let of = declaration;
        assert_eq!(
            of("@group(0) @binding(4) var<uniform> step: vec4<u32>;"),
            Some(((0, 4), wgpu::BufferBindingType::Uniform))
        );
        assert_eq!(of("@group(1) @binding(0) var<storage, read> w: array<u32>;"), Some(((1, 0), read_only(true))));
        assert_eq!(
            of("@group(0) @binding(12) var<storage,read_write> y: array<f32>;"),
            Some(((0, 12), read_only(false)))
        );
        assert_eq!(of("var<workgroup> head: array<f32, HEAD_DIM>;"), None);
    }
}
