//! Every kernel that programs are made of, as data: what `halfbyte kernels` lists, compiles and counts.
//!
//! Nothing is listed by hand. The list is what the lowering of graphs gives, the same that makes programs, over devices
//! that need not exist; so a kernel that is not listed is never run, and one that is run is listed.

use std::collections::{BTreeMap, HashSet};

use super::Options;
use super::device::{Capabilities, Device, DeviceOptions};
use super::kernels::Lower;
use super::kv::KvFormat;
use super::matrix::MatrixUnit;
use super::memory::WeightMemory;
use super::pipeline;
use super::profile::memread_key;
use super::program::{Lists, fused, used_weights};
use super::shader::{KernelKey, SOURCES};
use super::specimens::{self, Formats, Specimen};
use crate::backend::{Limits, Weights};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::quant;

/// A kernel as a pipeline is made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// Unique among those that were listed together: the kernel, what fills its slots, and after `@` the constants in
    /// which it differs from others of the same modules. No spaces.
    pub name: String,
    /// File name in `shaders/`.
    pub kernel: &'static str,
    /// `(slot, file)`, in the order of the name.
    pub modules: Vec<(&'static str, &'static str)>,
    /// Values of the `override` constants that it declares.
    pub constants: Vec<(&'static str, f64)>,
    /// What an invocation takes each time round its innermost loop, where its header says that.
    pub turn: Option<Turn>,
    /// Devices that need it.
    pub devices: Vec<String>,
    pub(super) key: KernelKey,
}

/// What an invocation takes each time round its innermost loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Weights.
    pub weights: u32,
    /// Bytes of these weights on the device, and of what they are multiplied with.
    pub bytes: u32,
}

/// A device, real or not, and what of it a program uses.
struct Profile {
    name: String,
    caps: Capabilities,
}

/// What a program is made for.
type Model<'a> = (&'a Graph, &'a dyn Weights);

/// All kernels, for `model` or for models of all shapes, on every kind of device that makes a difference.
///
/// # Errors
/// If the kernels can't take the model's shapes.
pub fn kernels(model: Option<Model<'_>>) -> Result<Vec<Kernel>> {
    list(&profiles(), model)
}

/// A device that compiles kernels one by one, on the calling thread.
pub struct Compiler {
    device: Device,
    profiles: Vec<Profile>,
}

impl Compiler {
    /// Opens an adapter.
    ///
    /// # Errors
    /// If there is none, or its driver refuses.
    pub fn open(options: &DeviceOptions) -> Result<Self> {
        let device = Device::open(options)?;
        let profile = |name: &str, caps: Capabilities| Profile { name: name.into(), caps };
        let caps = device.caps;
        let profiles = vec![
            profile("all", caps),
            profile("no matrices", Capabilities { matrix: None, ..caps }),
            profile("no f16", Capabilities { f16: false, matrix: None, ..caps }),
            profile("no subgroups", Capabilities { subgroup: None, matrix: None, ..caps }),
            profile("least", Capabilities { subgroup: None, f16: false, matrix: None, ..caps }),
            profile("f16 denormals", Capabilities { denormals: true, dp4a: false, ..caps }),
            profile("no dp4a", Capabilities { dp4a: false, ..caps }),
            profile("dp4a", Capabilities { dp4a: true, ..caps }),
        ];
        Ok(Self { device, profiles })
    }

    /// Name of the adapter.
    pub fn adapter(&self) -> &str {
        &self.device.info.name
    }

    /// All kernels that the adapter would use, for `model` or for models of all shapes; those that it would use if it could
    /// do less are among them.
    ///
    /// # Errors
    /// If the kernels can't take the model's shapes.
    pub fn kernels(&self, model: Option<Model<'_>>) -> Result<Vec<Kernel>> {
        list(&self.profiles, model)
    }

    /// Creates the pipeline of a kernel, and drops it.
    ///
    /// # Errors
    /// What the driver says if it refuses.
    pub fn compile(&self, kernel: &Kernel) -> Result<()> {
        let scope = self.device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        drop(pipeline::compile(&self.device, false, &kernel.key, None, None));
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(self.device.error(error));
        }
        self.device.check()
    }
}

/// What distinguishes devices, in all combinations.
fn profiles() -> Vec<Profile> {
    let mut profiles = Vec::new();
    for software in [false, true] {
        for subgroup in [None, Some(4), Some(8), Some(16), Some(32), Some(64)] {
            for f16 in [false, true] {
                let mut name = if software { "software" } else { "hardware" }.to_owned();
                if let Some(size) = subgroup {
                    name += &format!(", subgroups of {size}");
                }
                name += if f16 { ", f16" } else { "" };
                let least = Capabilities { software, subgroup, f16, ..Capabilities::LEAST };
                let large = Capabilities { max_binding_bytes: 1 << 30, max_buffer_bytes: 1 << 30, ..least };
                let caps = if subgroup.is_some() { Capabilities { max_bindings: 16, ..large } } else { least };
                profiles.push(Profile { name: name.clone(), caps });
                // Metal has matrices of 8 in subgroups of 32, others have those of 16.
                for side in [8, 16].into_iter().filter(|_| !software && f16 && subgroup >= Some(32)) {
                    let matrix = Some(MatrixUnit::new(side, subgroup.unwrap_or(32)));
                    let name = format!("{name}, matrices of {side}");
                    profiles.push(Profile { name, caps: Capabilities { matrix, ..caps } });
                }
            }
        }
    }
    let some = Capabilities {
        subgroup: Some(32),
        f16: true,
        max_bindings: 16,
        max_binding_bytes: 1 << 30,
        max_buffer_bytes: 1 << 30,
        ..Capabilities::LEAST
    };
    profiles.push(Profile { name: "hardware, f16 denormals".into(), caps: Capabilities { denormals: true, ..some } });
    profiles.push(Profile { name: "hardware, dp4a".into(), caps: Capabilities { dp4a: true, ..some } });
    profiles
}

/// Keys with the names of the profiles that need them.
type Keys = BTreeMap<KernelKey, Vec<String>>;

fn list(profiles: &[Profile], model: Option<Model<'_>>) -> Result<Vec<Kernel>> {
    let mut keys = Keys::new();
    let made: Vec<(Specimen, Graph)> = specimens::ALL.iter().map(|s| (*s, s.graph())).collect();
    for profile in profiles {
        let mut found = HashSet::new();
        match model {
            Some((graph, weights)) => lower(profile, graph, weights, &mut found)?,
            None => {
                for (specimen, graph) in &made {
                    for formats in formats(specimen) {
                        lower(profile, graph, &formats, &mut found)?;
                    }
                }
            }
        }
        for key in found {
            keys.entry(key).or_default().push(profile.name.clone());
        }
    }
    Ok(describe(keys))
}

/// What a user's program is made for: only the splits of attention depend on it.
const LIMITS: Limits = Limits { max_rows: 512, max_outputs: 1, max_seqs: 1, n_ctx: 4096, n_pages: 128 };

/// Each format alone and beside another, as in mixed files; as far as their blocks divide the rows.
fn formats(specimen: &Specimen) -> Vec<Formats> {
    let alone = quant::ALL.iter().map(|format| Formats { most: format, some: format });
    let mixed = quant::ALL.iter().zip(quant::ALL.iter().skip(1)).map(|(most, some)| Formats { most, some });
    let fits = |f: &Formats| {
        specimen
            .row_lens()
            .iter()
            .all(|len| len.is_multiple_of(f.most.block_len) && len.is_multiple_of(f.some.block_len))
    };
    alone.chain(mixed).filter(fits).collect()
}

/// Adds the kernels of all programs for one model on one device.
fn lower(profile: &Profile, graph: &Graph, weights: &dyn Weights, found: &mut HashSet<KernelKey>) -> Result<()> {
    // What a profile runs besides.
    found.insert(memread_key());
    for fuse in [true, false] {
        let fused = fused(graph, weights, profile.caps.max_bindings as usize, &Options { fuse, ..Options::default() });
        let (matrices, vectors) = used_weights(&fused);
        let memory = WeightMemory::plan(&profile.caps, &profile.name, weights, &matrices, &vectors)?;
        for kv in [KvFormat::F16, KvFormat::F32, KvFormat::Q8_0] {
            let (caps, limits) = (&profile.caps, &LIMITS);
            let lower = Lower { graph, fused: &fused, caps, weights: &memory, limits, kv };
            found.extend(Lists::new(&lower).iter().map(|call| call.key.clone()));
        }
    }
    Ok(())
}

/// Names the keys. Those that differ in nothing that the linked text declares are one kernel.
fn describe(keys: Keys) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for (key, devices) in keys {
        let (_, constants) = key.link();
        let name = key.to_string();
        if let Some(same) = kernels.iter_mut().find(|k| k.name == name && k.constants == constants) {
            same.devices.extend(devices);
            same.devices.sort();
            same.devices.dedup();
            continue;
        }
        let modules = key.modules.clone();
        let turn = turn(&key, &constants);
        kernels.push(Kernel { name, kernel: key.kernel, modules, constants, turn, devices, key });
    }
    let suffixes: Vec<String> = kernels.iter().map(|kernel| suffix(kernel, &kernels)).collect();
    for (kernel, suffix) in kernels.iter_mut().zip(suffixes) {
        kernel.name += &suffix;
    }
    kernels
}

/// The constants in which `kernel` differs from others of its name: `@D=576,WG=256`.
fn suffix(kernel: &Kernel, all: &[Kernel]) -> String {
    let varies = |name: &str, value: f64| {
        let others = all.iter().filter(|other| other.name == kernel.name);
        others.flat_map(|other| &other.constants).any(|(known, other)| *known == name && *other != value)
    };
    let differing = kernel.constants.iter().filter(|(name, value)| varies(name, *value));
    let differing: Vec<_> = differing.map(|(name, value)| format!("{name}={value}")).collect();
    if differing.is_empty() { String::new() } else { format!("@{}", differing.join(",")) }
}

/// The line `turn` of a kernel's header: `A weights, B bytes of x`, where A and B are products of numbers and constants.
fn turn(key: &KernelKey, constants: &[(&'static str, f64)]) -> Option<Turn> {
    let kernel = key.kernel;
    let (_, text) = SOURCES.iter().find(|(path, _)| *path == kernel)?;
    let line = text.lines().find_map(|line| line.strip_prefix("//! turn"))?;
    let factor = |factor: &str| match factor.parse::<f64>() {
        Ok(number) => number,
        Err(_) => {
            let constant = constants.iter().find(|(name, _)| *name == factor);
            constant.unwrap_or_else(|| panic!("{kernel}: `turn` names {factor}, which is no constant")).1
        }
    };
    let product = |unit: &str| -> f64 {
        let words = line.split(',').map(|part| part.split_whitespace().collect::<Vec<_>>());
        let product = words.filter(|words| words.get(1) == Some(&unit)).map(|words| words[0]).next();
        product.map_or(0.0, |product| product.split('·').map(factor).product())
    };
    let (weights, x_bytes) = (product("weights"), product("bytes"));
    let (_, name) = key.modules.iter().find(|(slot, _)| *slot == "quant")?;
    let format = quant::ALL.iter().find(|format| format.name == *name)?;
    let plane_bytes: usize = format.planes.iter().map(|plane| plane.block_bytes).sum();
    let bytes = weights * plane_bytes as f64 / format.block_len as f64 + x_bytes;
    Some(Turn { weights: weights as u32, bytes: bytes as u32 })
}

impl Kernel {
    /// The error that this kernel does not compile.
    pub fn failed(names: &[String], adapter: &str) -> Error {
        Error::Gpu {
            adapter: adapter.into(),
            what: format!("{} kernels do not compile: {}", names.len(), names.join(", ")),
        }
    }
}
