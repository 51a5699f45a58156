//! From a file to a program on a device: which device, how much of everything, whether there is room for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcetera::BaseStrategy;

use super::device::{self, Choice, Device};
use super::memory;
use crate::backend::gpu::{AdapterKind, DeviceOptions};
use crate::backend::{KvFormat, Limits, Memory, PAGE_LEN, Program, Progress, cpu, gpu};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Config, Model};
use crate::tokenizer::{self, Tokenizer};

/// Logits of a step take no more than this, as long as there is a row for each session.
const MAX_LOGITS_BYTES: usize = 128 << 20;

/// Positions of a context window when nobody says how many, and the model was trained for more.
const DEFAULT_N_CTX: usize = 4096;

/// How to load a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Where it runs.
    pub device: Device,
    /// Context window of each session in tokens; what the model was trained for if it is 0, and that but at most 4,096 if not given.
    pub n_ctx: Option<usize>,
    /// Threads, on the CPU: at most one per processor that this process may use; [`default_threads`] if not given.
    pub threads: Option<usize>,
    /// Most rows in a step: how long the pieces are in which prompts run.
    pub max_rows: usize,
    /// Most rows in a step whose logits are wanted; at least one a session, and no more than 128 MiB of logits.
    pub max_outputs: usize,
    /// Sessions that may be open at a time. Each has a whole context window of KV cache.
    pub max_sessions: usize,
    /// Folder where compiled pipelines are kept for the next start, on a GPU whose driver gives them out; by default where
    /// `HALFBYTE_PIPELINE_CACHE` says (`off`: nowhere), else in the user's cache folder.
    pub pipeline_cache: Option<PathBuf>,
    /// Whether steps are timed kernel by kernel, on a GPU: see [`Program::profile`].
    pub profile: bool,
    /// Whether a device has to compute anything; see [`gpu::Options::expect_results`].
    pub expect_results: bool,
    /// What computes on the CPU; by default what `HALFBYTE_CPU` says (the name of an instruction set, or `reference`), else the
    /// best that the processor has.
    pub kernels: Option<cpu::Kernels>,
    /// How keys and values are stored: in f16 if not given.
    pub kv: Option<KvFormat>,
    /// Whether tensors outlive their step, for [`Program::tensor`].
    pub keep_tensors: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            n_ctx: None,
            threads: None,
            max_rows: 512,
            max_outputs: 1,
            max_sessions: 1,
            kv: None,
            keep_tensors: false,
            kernels: None,
            pipeline_cache: pipeline_cache(std::env::var_os("HALFBYTE_PIPELINE_CACHE")),
            profile: false,
            expect_results: true,
        }
    }
}

/// Where compiled pipelines are kept: the folder that `HALFBYTE_PIPELINE_CACHE` names, nowhere if it is empty or `off`, and
/// `halfbyte/pipelines` in the user's cache folder without it.
fn pipeline_cache(variable: Option<OsString>) -> Option<PathBuf> {
    match variable {
        Some(value) if value.is_empty() || value == "off" => None,
        Some(folder) => Some(folder.into()),
        None => Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("halfbyte").join("pipelines")),
    }
}

/// What computes on the CPU, by the value of `HALFBYTE_CPU`.
fn kernels(variable: Option<OsString>) -> Result<cpu::Kernels> {
    let Some(value) = variable.filter(|value| !value.is_empty()) else { return Ok(cpu::Kernels::Fast) };
    value.to_str().and_then(|name| name.parse().ok()).ok_or_else(|| Error::Usage {
        what: format!("HALFBYTE_CPU is `{}`", value.display()),
        hint: format!("it can be one of: {}", cpu::Kernels::names().join(", ")),
    })
}

/// What was loaded, and onto what.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The file's name, which unlike the model's own name for itself mostly says how it is quantized.
    pub model: String,
    /// The file, with its other parts where it is split.
    pub files: Vec<PathBuf>,
    /// GGUF's name of its architecture.
    pub architecture: String,
    /// The device, for people.
    pub device: String,
    /// Why this device.
    pub choice: Choice,
    /// Threads that compute, where it is the CPU.
    pub threads: Option<usize>,
    /// What it takes, as planned.
    pub memory: Memory,
    /// Positions in the context window of a session.
    pub n_ctx: usize,
    /// Positions that the model was trained for.
    pub n_ctx_train: usize,
    /// The file's own template for conversations: Jinja text.
    pub chat_template: Option<String>,
    /// How long loading took.
    pub load_time: Duration,
}

/// A program with the tokenizer that goes with it.
pub struct Loaded {
    /// The compiled model.
    pub program: Box<dyn Program>,
    /// Text to tokens and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// What it is.
    pub facts: Facts,
}

impl Loaded {
    /// Loads the GGUF file at `path`: chooses a device, plans the memory, compiles the model for it, and reads the
    /// tokenizer meanwhile.
    ///
    /// # Errors
    /// If the file can't be used, the device can't be had, or there is not enough memory for the plan.
    pub fn open(path: &Path, options: &EngineOptions, progress: Progress<'_>) -> Result<Loaded> {
        let start = Instant::now();
        let gguf = Gguf::open(path)?;
        // Of a file that does not fit into memory pieces are read again and again: of no more than is needed then.
        if memory::available_bytes().is_some_and(|available| gguf.n_bytes() as u64 <= available) {
            gguf.ask_for_large_pages();
        }
        let config = Config::from_gguf(&gguf)?;
        let limits = limits(options, config.n_ctx, config.n_vocab)?;
        let model = Model::for_context(&gguf, limits.n_ctx)?;
        let (tokenizer, compiled) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| tokenizer::from_gguf(&gguf));
            let compiled = compile(&model, limits, options, progress);
            (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), compiled)
        });
        let (tokenizer, Compiled { program, choice, threads, memory }) = (tokenizer?, compiled?);
        let facts = Facts {
            model: path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            files: gguf.files().map(Path::to_owned).collect(),
            architecture: model.graph.name.clone(),
            device: program.info().device,
            choice,
            threads,
            memory,
            n_ctx: limits.n_ctx,
            n_ctx_train: config.n_ctx,
            chat_template: gguf.metadata().opt_str("tokenizer.chat_template")?.map(Into::into),
            load_time: start.elapsed(),
        };
        Ok(Loaded { program, tokenizer, facts })
    }
}

/// Threads to compute with: one per physical core that this process may use (its affinity and, in a container, its share of the
/// processor's time are heeded), since a second one on the same core only takes its turn. Of processors with cores of two kinds, Apple's
/// and Intel's on Linux, only the fast ones: a slow one would hold up the others at the end of every op.
pub fn default_threads() -> usize {
    let physical = fast_cores().unwrap_or_else(num_cpus::get_physical);
    physical.min(num_cpus::get()).max(1)
}

/// Cores of the fastest kind, on a system that tells kinds apart.
#[cfg(target_os = "macos")]
fn fast_cores() -> Option<usize> {
    let mut cores: libc::c_int = 0;
    let mut len = size_of_val(&cores);
    let name = c"hw.perflevel0.physicalcpu";
    // SAFETY: the name ends with a zero byte, and at most `len` bytes are written to `cores`, which is as long as that.
    let failed =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut cores).cast(), &raw mut len, std::ptr::null_mut(), 0) }
            != 0;
    if failed { None } else { usize::try_from(cores).ok().filter(|&cores| cores > 0) }
}

/// Cores of the faster kind, of a processor of Intel's that has two.
#[cfg(target_os = "linux")]
fn fast_cores() -> Option<usize> {
    fast_cores_in("/sys/devices".as_ref())
}

/// The same, by what the system's folder of devices says: the processors of the faster kind, some of which are one core.
#[cfg(target_os = "linux")]
fn fast_cores_in(devices: &Path) -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(devices.join(path)).ok();
    let mut cores = std::collections::HashSet::new();
    for range in read("cpu_core/cpus")?.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for processor in first.parse::<usize>().ok()?..=last.parse().ok()? {
            cores.insert(read(&format!("system/cpu/cpu{processor}/topology/core_cpus_list"))?);
        }
    }
    Some(cores.len()).filter(|&n| n > 0)
}

/// Nobody says which cores are fast.
#[cfg(not(any(target_os = "macos", target_os = "linux")))]
fn fast_cores() -> Option<usize> {
    None
}

fn limits(options: &EngineOptions, n_ctx_train: usize, n_vocab: usize) -> Result<Limits> {
    let n_ctx = match options.n_ctx {
        Some(0) => n_ctx_train,
        Some(n_ctx) => n_ctx,
        None => n_ctx_train.min(DEFAULT_N_CTX),
    };
    let n_seqs = options.max_sessions;
    if !(2..=u32::MAX as usize).contains(&n_ctx) || n_seqs == 0 || options.max_rows == 0 {
        return Err(Error::Usage {
            what: format!("{n_seqs} sessions of {n_ctx} tokens, {} rows a step", options.max_rows),
            hint: "at least one session, one row, and 2 to 4,294,967,295 tokens of context make sense".into(),
        });
    }
    let n_pages = n_seqs * n_ctx.div_ceil(PAGE_LEN);
    let max_outputs = options.max_outputs.min(MAX_LOGITS_BYTES / (size_of::<f32>() * n_vocab)).max(n_seqs);
    Ok(Limits { max_rows: options.max_rows.max(n_seqs), max_outputs, max_seqs: n_seqs, n_ctx, n_pages })
}

struct Compiled {
    program: Box<dyn Program>,
    choice: Choice,
    threads: Option<usize>,
    memory: Memory,
}

fn compile(model: &Model, limits: Limits, options: &EngineOptions, progress: Progress<'_>) -> Result<Compiled> {
    // Looking for adapters loads drivers: not for those who want the CPU.
    let adapters = if options.device == Device::Cpu { vec![] } else { gpu::adapters() };
    let choice = device::choose(&options.device, &adapters)?;
    let (graph, weights) = (&model.graph, model);
    let what = format!("the model with {} sessions of {} tokens", limits.max_seqs, limits.n_ctx);
    let Some(adapter) = choice.adapter.map(|i| &adapters[i]) else {
        if options.profile {
            let what = format!("there is no profile of {}", choice.reason);
            return Err(Error::Usage { what, hint: "name a GPU with `--device`".into() });
        }
        let kernels = options.kernels.map_or_else(|| kernels(std::env::var_os("HALFBYTE_CPU")), Ok)?;
        let kv = options.kv.unwrap_or_default();
        if !kernels.stores(kv) && options.kv.is_some() {
            return Err(Error::Usage {
                what: format!("keys and values in {kv} with the reference kernels of the CPU"),
                hint: "these store them in f32: leave out `--cache-type`".into(),
            });
        }
        let kv = if kernels.stores(kv) { kv } else { KvFormat::F32 };
        let memory = memory::plan(graph, weights, &limits, kv, options.keep_tensors);
        memory::check(&what, &memory, true)?;
        // More threads than processors would only take turns, and wait for one another.
        let threads = options.threads.map_or_else(default_threads, |n| n.min(num_cpus::get()));
        let cpu_options = cpu::Options { threads, kernels, kv, keep_tensors: options.keep_tensors };
        let program = cpu::compile(graph, weights, limits, cpu_options)?;
        return Ok(Compiled { program: Box::new(program), choice, threads: Some(threads), memory });
    };
    let kv = options.kv.unwrap_or_default();
    let memory = memory::plan(graph, weights, &limits, kv, options.keep_tensors);
    // A card's own memory can't be asked for; whether it is enough is found out when it is taken.
    if adapter.kind != AdapterKind::Discrete {
        memory::check(&what, &memory, false)?;
    }
    let device = DeviceOptions { name: Some(adapter.name.clone()), ..DeviceOptions::default() };
    let pipeline_cache = options.pipeline_cache.clone();
    let EngineOptions { profile, expect_results, keep_tensors, .. } = *options;
    let gpu_options =
        gpu::Options { device, kv, keep_tensors, pipeline_cache, profile, expect_results, ..gpu::Options::default() };
    let program = gpu::compile(graph, weights, limits, &gpu_options, progress)?;
    Ok(Compiled { program: Box::new(program), choice, threads: None, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn fast_cores_of_a_hybrid_are_counted_once() {
        let devices = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = devices.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            std::fs::write(path, text).expect("it is written");
        };
        assert_eq!(fast_cores_in(devices.path()), None, "cores of one kind");
        // Two fast cores with two processors each, one with one, two slow cores.
        for (processor, core) in ["0-1", "0-1", "2-3", "2-3", "4", "5", "6"].iter().enumerate() {
            write(&format!("system/cpu/cpu{processor}/topology/core_cpus_list"), core);
        }
        write("cpu_atom/cpus", "5-6\n");
        write("cpu_core/cpus", "0-3,4\n");
        assert_eq!(fast_cores_in(devices.path()), Some(3));
        write("cpu_core/cpus", "0-9\n");
        assert_eq!(fast_cores_in(devices.path()), None, "what the system does not know");
    }

    #[test]
    fn compiled_pipelines_are_kept_where_the_environment_says() {
        assert_eq!(pipeline_cache(Some("off".into())), None);
        assert_eq!(pipeline_cache(Some("".into())), None);
        assert_eq!(pipeline_cache(Some("/tmp/x".into())), Some("/tmp/x".into()));
        assert!(pipeline_cache(None).is_none_or(|folder| folder.ends_with("halfbyte/pipelines")));
    }

    #[test]
    fn kernels_of_the_cpu_are_those_that_the_environment_names() {
        assert_eq!(kernels(None).ok(), Some(cpu::Kernels::Fast));
        assert_eq!(kernels(Some("".into())).ok(), Some(cpu::Kernels::Fast));
        for name in cpu::Kernels::names() {
            assert_eq!(kernels(Some(name.into())).map(|kernels| kernels.to_string()).ok().as_deref(), Some(name));
        }
        let error = kernels(Some("mmx".into())).expect_err("no such kernels");
        assert_eq!(error.to_string(), "HALFBYTE_CPU is `mmx`");
        assert_eq!(
            error.hint().as_deref(),
            Some("it can be one of: fast, reference, avx2, avx512, amx, neon, neon-dot, neon-i8mm")
        );
    }

    #[test]
    fn the_context_is_what_was_asked_for_or_what_makes_sense() {
        let of = |n_ctx, max_sessions, train| {
            limits(&EngineOptions { n_ctx, max_sessions, ..EngineOptions::default() }, train, 1000)
                .map(|l| (l.n_ctx, l.n_pages))
        };
        assert_eq!(of(None, 1, 2048).ok(), Some((2048, 64)));
        assert_eq!(of(None, 1, 131_072).ok(), Some((4096, 128)));
        assert_eq!(of(Some(0), 1, 131_072).ok(), Some((131_072, 4096)));
        assert_eq!(of(Some(33), 3, 2048).ok(), Some((33, 6)));
        assert!(of(Some(1), 1, 2048).is_err());
        assert!(of(None, 0, 2048).is_err());
    }

    #[test]
    fn rows_of_logits_are_as_many_as_asked_for_or_have_room() {
        let of = |max_outputs, max_sessions, n_vocab| {
            limits(&EngineOptions { max_outputs, max_sessions, ..EngineOptions::default() }, 512, n_vocab)
                .map(|l| l.max_outputs)
                .ok()
        };
        assert_eq!(of(1, 3, 1000), Some(3));
        assert_eq!(of(512, 3, 1000), Some(512));
        assert_eq!(of(512, 3, 262_144), Some(128));
        assert_eq!(of(512, 200, 262_144), Some(200));
    }
}
