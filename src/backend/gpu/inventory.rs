//! Every kernel that programs are made of, as data: what `halfbyte kernels` lists, compiles and counts.
//!
//! Nothing is listed by hand. The list is what the lowering of graphs gives, the same that makes programs, over devices
//! that need not exist; so a kernel that is not listed is never run, and one that is run is listed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::KvFormat;
use super::device::{Capabilities, Device, DeviceOptions};
use super::kernels::Lower;
use super::matrix::MatrixUnit;
use super::memory::WeightMemory;
use super::pipeline;
use super::profile::memread_key;
use super::program::{Lists, fused, used_weights};
use super::shader::{KernelKey, SOURCES};
use super::specimens::{self, Formats, Specimen};
use super::{Options, denormals};
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
    /// Which of the devices that were asked about need it, if not all do: `hardware, subgroups of 32 or subgroups of 64`.
    pub devices: String,
    /// Whether the first of them needs it: an adapter as it is.
    pub as_it_is: bool,
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
    /// What tells it from the others that are listed with it: one of each pair, triple, … of alternatives.
    traits: Vec<String>,
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
        let profiles = restrictions(device.caps).map(profile).collect();
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

    /// The error that these kernels do not compile.
    pub fn refused(&self, names: &[String]) -> Error {
        self.device.error(format!("{} kernels do not compile: {}", names.len(), names.join(", ")))
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

/// A device as it is, and as if it could do less, or more where that is found out later.
fn restrictions(caps: Capabilities) -> impl Iterator<Item = Capabilities> {
    let no_matrices = Capabilities { matrix: None, ..caps };
    let no_f16 = Capabilities { f16: false, ..no_matrices };
    let no_subgroups = Capabilities { subgroup: None, ..no_matrices };
    let least = Capabilities { subgroup: None, ..no_f16 };
    // Whether f16 denormals are kept shows when something runs, and not everything that compiles runs.
    let denormals = Capabilities { denormals: true, dp4a: false, ..no_matrices };
    let no_dp4a = Capabilities { dp4a: false, ..no_matrices };
    let mut all = vec![caps];
    for other in [no_matrices, no_f16, no_subgroups, least, denormals, no_dp4a] {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all.into_iter()
}

/// Devices that differ in what decides about kernels, in all combinations. Those without subgroups have the lowest limits.
fn profiles() -> Vec<Profile> {
    let mut all = Vec::new();
    for software in [false, true] {
        for subgroup in [None, Some(4), Some(8), Some(16), Some(32), Some(64)] {
            for f16 in [false, true] {
                let caps = Capabilities { software, subgroup, f16, ..Capabilities::LEAST };
                let large = Capabilities { max_binding_bytes: 1 << 30, max_buffer_bytes: 1 << 30, ..caps };
                let caps = subgroup.map_or(caps, |_| Capabilities { max_bindings: 16, ..large });
                all.push(caps);
                all.push(Capabilities { denormals: true, ..caps });
                all.push(Capabilities { dp4a: true, ..caps });
                if let (Some(size), true) = (subgroup, f16) {
                    let matrix = |side| Some(MatrixUnit::new(side, size));
                    all.extend([8, 16].map(|side| Capabilities { matrix: matrix(side), ..caps }));
                }
            }
        }
    }
    all.into_iter().map(profile).collect()
}

/// The traits that capabilities make.
fn profile(caps: Capabilities) -> Profile {
    let traits = vec![
        if caps.software { "software" } else { "hardware" }.to_owned(),
        caps.subgroup.map_or_else(|| "no subgroups".to_owned(), |size| format!("subgroups of {size}")),
        if caps.f16 { "f16" } else { "no f16" }.to_owned(),
        caps.matrix.map_or_else(|| "no matrices".to_owned(), |unit| format!("{0} × {0} matrices", unit.side)),
        if caps.denormals { "f16 denormals" } else { "no f16 denormals" }.to_owned(),
        if caps.dp4a { "dp4a" } else { "no dp4a" }.to_owned(),
    ];
    Profile { traits, caps }
}

/// Those profiles in few words: what they have in common, and alternatives where each goes with each. Empty if it is all of them.
fn summary(some: &[usize], all: &[Profile]) -> String {
    if some.len() == all.len() {
        return String::new();
    }
    let n_traits = all[0].traits.len();
    let values = |of: &mut dyn Iterator<Item = usize>, i: usize| {
        let mut values: Vec<&str> = Vec::new();
        for profile in of {
            let value = all[profile].traits[i].as_str();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    let alternatives: Vec<_> = (0..n_traits).map(|i| values(&mut some.iter().copied(), i)).collect();
    let goes =
        |profile: &Profile| profile.traits.iter().zip(&alternatives).all(|(value, of)| of.contains(&value.as_str()));
    if all.iter().filter(|profile| goes(profile)).count() != some.len() {
        return some.iter().map(|&i| all[i].traits.join(", ")).collect::<Vec<_>>().join("; ");
    }
    let telling = (0..n_traits).filter(|&i| alternatives[i].len() < values(&mut (0..all.len()), i).len());
    telling.map(|i| alternatives[i].join(" or ")).collect::<Vec<_>>().join(", ")
}

/// Keys with the profiles that need them, as indices.
type Keys = BTreeMap<KernelKey, BTreeSet<usize>>;

fn list(profiles: &[Profile], model: Option<Model<'_>>) -> Result<Vec<Kernel>> {
    let mut keys = Keys::new();
    let made: Vec<(Specimen, Graph)> = specimens::ALL.iter().map(|s| (*s, s.graph())).collect();
    for (i, profile) in profiles.iter().enumerate() {
        let mut found = HashSet::new();
        match model {
            Some((graph, weights)) => lower(profile, graph, weights, &KV, &mut found)?,
            None => {
                for (specimen, graph) in &made {
                    for (i, formats) in formats(specimen).iter().enumerate() {
                        // How keys and values are stored has nothing to do with how weights are.
                        let kv = if i == 0 { &KV[..] } else { &KV[..1] };
                        lower(profile, graph, formats, kv, &mut found)?;
                    }
                }
            }
        }
        for key in found {
            keys.entry(key).or_default().insert(i);
        }
    }
    Ok(describe(keys, profiles))
}

/// How keys and values can be stored, the usual way first.
const KV: [KvFormat; 3] = [KvFormat::F16, KvFormat::F32, KvFormat::Q8_0];

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
fn lower(
    profile: &Profile,
    graph: &Graph,
    weights: &dyn Weights,
    kv: &[KvFormat],
    found: &mut HashSet<KernelKey>,
) -> Result<()> {
    // What a profile runs besides.
    found.insert(memread_key());
    // What decides about `dot`, on devices that are asked.
    found.extend((!profile.caps.software).then(|| denormals::key("denormals")));
    for fuse in [true, false] {
        let fused = fused(graph, weights, profile.caps.max_bindings as usize, &Options { fuse, ..Options::default() });
        let (matrices, vectors) = used_weights(&fused);
        let memory = WeightMemory::plan(&profile.caps, &profile.traits.join(", "), weights, &matrices, &vectors)?;
        for &kv in kv {
            let (caps, limits) = (&profile.caps, &LIMITS);
            let lower = Lower { graph, fused: &fused, caps, weights: &memory, limits, kv };
            found.extend(Lists::new(&lower).iter().map(|call| call.key.clone()));
        }
    }
    Ok(())
}

/// Names the keys. Those that differ in nothing that the linked text declares are one kernel.
fn describe(keys: Keys, profiles: &[Profile]) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut needed_by: Vec<BTreeSet<usize>> = Vec::new();
    for (key, by) in keys {
        let (_, constants) = key.link();
        let name = key.to_string();
        // Keys are in order, so that those of one name are neighbours.
        let mut namesakes = kernels.iter().zip(&mut needed_by).rev().take_while(|(kernel, _)| kernel.name == name);
        if let Some((_, same)) = namesakes.find(|(kernel, _)| kernel.constants == constants) {
            same.extend(by);
            continue;
        }
        needed_by.push(by);
        let modules = key.modules.clone();
        let turn = turn(&key, &constants);
        kernels.push(Kernel {
            name,
            kernel: key.kernel,
            modules,
            constants,
            turn,
            devices: String::new(),
            as_it_is: false,
            key,
        });
    }
    for namesakes in kernels.chunk_by_mut(|a, b| a.name == b.name) {
        let suffixes: Vec<String> = namesakes.iter().map(|kernel| suffix(kernel, namesakes)).collect();
        namesakes.iter_mut().zip(suffixes).for_each(|(kernel, suffix)| kernel.name += &suffix);
    }
    for (kernel, by) in kernels.iter_mut().zip(needed_by) {
        kernel.as_it_is = by.contains(&0);
        kernel.devices = summary(&by.into_iter().collect::<Vec<_>>(), profiles);
    }
    kernels
}

/// The constants in which `kernel` differs from its namesakes: `@D=576,WG=256`.
fn suffix(kernel: &Kernel, namesakes: &[Kernel]) -> String {
    let varies = |name: &str, value: f64| {
        namesakes.iter().flat_map(|other| &other.constants).any(|(known, other)| *known == name && *other != value)
    };
    let differing = kernel.constants.iter().filter(|(name, value)| varies(name, *value));
    let differing: Vec<_> = differing.map(|(name, value)| format!("{name}={}", short(*value))).collect();
    if differing.is_empty() { String::new() } else { format!("@{}", differing.join(",")) }
}

/// A constant as it was before it became an f64: whole, or an f32.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{}", value as f32) }
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
    // Of a plane that a super-block has little in, each group of 32 loads all, but not more than a vector.
    let of_group = |bytes: usize| (bytes as f64 * 32.0 / format.block_len as f64).max(bytes.min(16) as f64);
    let plane_bytes: f64 = match format.block_len {
        1 => format.planes.iter().map(|plane| 32.0 * plane.block_bytes as f64).sum(),
        _ => format.planes.iter().map(|plane| of_group(plane.block_bytes)).sum(),
    };
    let bytes = weights / 32.0 * plane_bytes + x_bytes;
    Some(Turn { weights: weights as u32, bytes: bytes as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Kernel> {
        kernels(None).expect("the kernels can be listed")
    }

    /// A kernel that no list has would never be compiled for the GPUs that are not here.
    #[test]
    fn every_kernel_file_is_listed() {
        let listed: HashSet<&str> = all().iter().map(|kernel| kernel.kernel).collect();
        let files = SOURCES.iter().map(|(path, _)| *path).filter(|path| !path.contains('/'));
        let missing: Vec<_> = files.filter(|file| !listed.contains(file)).collect();
        assert!(missing.is_empty(), "no program runs {missing:?}");
    }

    /// Not only the files: each file that can fill a slot does so somewhere.
    #[test]
    fn every_module_is_listed() {
        let kernels = all();
        let used: HashSet<(&str, &str)> = kernels.iter().flat_map(|kernel| kernel.modules.iter().copied()).collect();
        let modules = SOURCES.iter().filter_map(|(path, _)| path.split_once('/')).filter(|(slot, _)| *slot != "lib");
        let formats = quant::ALL.iter().map(|format| ("quant", format.name));
        let missing: Vec<_> = modules.chain(formats).filter(|module| !used.contains(module)).collect();
        assert!(missing.is_empty(), "no kernel is made with {missing:?}");
    }

    #[test]
    fn names_are_unique_and_without_spaces() {
        let kernels = all();
        let names: HashSet<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names.len(), kernels.len());
        assert!(names.iter().all(|name| !name.contains(char::is_whitespace)), "{names:?}");
    }

    /// Without the line, nobody counts the arithmetic of the kernel that decides about speed.
    #[test]
    fn matvec_kernels_say_what_a_turn_takes() {
        let matvec: Vec<_> = all().into_iter().filter(|kernel| kernel.kernel.starts_with("matvec")).collect();
        assert!(!matvec.is_empty());
        for kernel in matvec {
            let turn = kernel.turn.unwrap_or_else(|| panic!("{}: no `turn` in its header", kernel.name));
            assert!(turn.weights >= 32 && turn.weights.is_multiple_of(32), "{}: {turn:?}", kernel.name);
            assert!(turn.bytes > turn.weights / 2, "{}: fewer than four bits a weight: {turn:?}", kernel.name);
        }
    }

    #[test]
    fn summaries_name_what_tells_devices_apart() {
        let all = profiles();
        let with = |part: &str| -> Vec<usize> {
            (0..all.len()).filter(|&i| all[i].traits.iter().any(|value| value == part)).collect()
        };
        assert_eq!(summary(&(0..all.len()).collect::<Vec<_>>(), &all), "");
        assert_eq!(summary(&with("f16"), &all), "f16");
        let mut two = with("subgroups of 8");
        two.extend(with("subgroups of 32"));
        assert_eq!(summary(&two, &all), "subgroups of 8 or subgroups of 32");
        // Nothing that these have, and only they.
        let ends = [0, all.len() - 1];
        assert_eq!(summary(&ends, &all), ends.map(|i| all[i].traits.join(", ")).join("; "));
    }

    /// A refused kernel is reported, and does not spoil those after it.
    #[test]
    fn a_kernel_that_the_driver_refuses_is_an_error() {
        let compiler = Compiler::open(&DeviceOptions::default()).expect("an adapter: see ./scripts/test");
        let listed = compiler.kernels(None).expect("the kernels can be listed");
        let good = listed.into_iter().find(|kernel| kernel.kernel == "add").expect("there is an addition");
        let mut bad = good.clone();
        for (name, value) in &mut bad.key.constants {
            if *name == "WG" {
                *value = 0_u32.into();
            }
        }
        let error = compiler.compile(&bad).expect_err("a workgroup of nobody");
        assert!(error.to_string().contains("workgroup"), "{error}");
        compiler.compile(&good).expect("a good kernel compiles after a bad one");
    }
}
