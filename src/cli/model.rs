//! What every command that runs a model has in common: which one, where, and bars while it is fetched and loaded.

use std::path::PathBuf;
use std::time::Duration;

use halfbyte::engine::{Device, Engine, EngineOptions, Facts, KvFormat};
use halfbyte::hub;
use halfbyte::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::fetch;

/// Which model, and how it runs.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
    #[arg(short, long, value_name = "MODEL", env = "HALFBYTE_MODEL", hide_env_values = true, default_value = hub::DEFAULT_MODEL)]
    pub(super) model: String,

    #[command(flatten)]
    run: RunArgs,
}

/// How a model runs.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(super) struct RunArgs {
    /// `auto`, `cpu`, `gpu`, or a part of an adapter's name
    #[arg(long, value_name = "DEVICE", env = "HALFBYTE_DEVICE", hide_env_values = true, default_value = "auto")]
    device: String,

    /// As llama.cpp spells it: 0 for the CPU, and with any other number all layers are on the GPU, if there is one
    #[arg(long, value_name = "N", visible_alias = "gpu-layers", hide = true)]
    n_gpu_layers: Option<String>,

    /// Threads, on the CPU [default: one per physical core]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = super::n_threads)]
    threads: Option<usize>,

    /// Time every kernel, on a GPU that takes timestamps, and show where the time goes
    #[arg(long)]
    profile: bool,

    /// How keys and values are stored: q8_0 takes half the memory of f16 and is less exact [default: f16]
    #[arg(long, value_name = "TYPE", aliases = ["cache-type-k", "cache-type-v"], hide_default_value = true)]
    cache_type: Vec<CacheType>,
}

/// Formats of keys and values, as llama.cpp spells them.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CacheType {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    F32,
}

impl ModelArgs {
    /// The same for the model called `name`.
    pub(super) fn with_name(&self, name: &str) -> Self {
        Self { model: name.to_owned(), ..self.clone() }
    }

    /// The file, fetched if need be.
    pub(super) fn resolve(&self) -> Result<PathBuf> {
        fetch::model(&self.model)
    }

    /// The model, loaded for one session with a context of `n_ctx`.
    pub(super) fn load(&self, n_ctx: Option<usize>) -> Result<Engine> {
        let path = self.resolve()?;
        let options = self.options(n_ctx)?;
        let engine = with_upload_bar(|progress| Engine::load_with(&path, &options, progress))?;
        if engine.facts().choice.noteworthy {
            super::note(&format!("runs on {} (`--device gpu` takes it)", engine.facts().choice.reason));
        }
        note_long_context(engine.facts());
        Ok(engine)
    }

    /// As [`RunArgs::options`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn options(&self, n_ctx: Option<usize>) -> Result<EngineOptions> {
        self.run.options(n_ctx)
    }
}

impl RunArgs {
    /// Options for one session with a context of `n_ctx`.
    ///
    /// # Errors
    /// If keys and values are to be stored in different formats.
    pub(super) fn options(&self, n_ctx: Option<usize>) -> Result<EngineOptions> {
        let named = self.device.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        let device = if self.n_gpu_layers.as_deref() == Some("0") { Device::Cpu } else { named };
        let (threads, kv) = (self.threads.filter(|&n| n > 0), self.kv()?);
        Ok(EngineOptions { device, n_ctx, threads, kv, profile: self.profile, ..EngineOptions::default() })
    }

    fn kv(&self) -> Result<Option<KvFormat>> {
        if self.cache_type.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::Usage {
                what: "keys in one format and values in another".into(),
                hint: "both are stored alike: give `--cache-type` once".into(),
            });
        }
        Ok(self.cache_type.first().map(|cache_type| match cache_type {
            CacheType::F16 => KvFormat::F16,
            CacheType::Q8_0 => KvFormat::Q8_0,
            CacheType::F32 => KvFormat::F32,
        }))
    }
}

/// Says that a context is longer than the model knows.
pub(super) fn note_long_context(facts: &Facts) {
    let Facts { n_ctx, n_ctx_train, .. } = facts;
    if n_ctx > n_ctx_train {
        super::note(&format!("the model was trained for contexts of {n_ctx_train} tokens, not of {n_ctx}"));
    }
}

/// Calls `load` with something that shows a bar.
pub(super) fn with_upload_bar<T>(load: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let bar = bytes_bar("loading", 0);
    let result = load(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

/// A bar on standard error; nothing where that is not a terminal.
fn bytes_bar(what: &str, total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar:.cyan} {bytes}/{total_bytes} {bytes_per_sec}")
        .expect("the template is right");
    let bar = ProgressBar::new(total_bytes).with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
