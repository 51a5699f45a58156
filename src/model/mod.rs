//! From a GGUF file to a model: hyper-parameters, the graph they describe, and the weights that the graph names.
//!
//! An architecture is one file that reads like the formula it is, and one row in `ARCHITECTURES`. It asks for keys
//! through `keys::Keys`, which refuses what makes no sense, and for tensors through the graph's builder, which
//! compares their shapes; so nothing is left to check afterwards, and nothing large is allocated before.

mod blocks;
mod config;
mod deepseek;
mod experts;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4moe;
mod gpt_oss;
mod granite;
mod keys;
mod llama;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;
mod source;

use std::collections::HashMap;

pub use self::config::Config;
use self::keys::Keys;
pub(crate) use self::source::Source;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata};
use crate::graph::{Graph, GraphBuilder, Val};
use crate::quant::{Weight, Weights};

/// An architecture: GGUF's name of it, and what puts its ops into a graph and gives the logits.
struct Architecture {
    name: &'static str,
    build: fn(&Keys<'_>, &Config, &GraphBuilder<'_>) -> Result<Val>,
}

impl Architecture {
    /// That of a file.
    fn of(metadata: &Metadata) -> Result<&'static Self> {
        let name = metadata.str("general.architecture")?;
        ARCHITECTURES
            .iter()
            .find(|a| a.name == name)
            .ok_or_else(|| Error::UnsupportedArchitecture { found: name.into(), known: architectures().collect() })
    }
}

/// Every supported architecture.
static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "deepseek", build: deepseek::build },
    Architecture { name: "gemma", build: gemma::build },
    Architecture { name: "gemma2", build: gemma2::build },
    Architecture { name: "gemma3", build: gemma3::build },
    Architecture { name: "glm4moe", build: glm4moe::build },
    Architecture { name: "gpt-oss", build: gpt_oss::build },
    Architecture { name: "granite", build: granite::build },
    Architecture { name: "granitemoe", build: granite::build },
    Architecture { name: "llama", build: llama::build },
    Architecture { name: "olmo2", build: olmo2::build },
    Architecture { name: "olmoe", build: olmoe::build },
    Architecture { name: "phi3", build: phi3::build },
    Architecture { name: "qwen2", build: qwen2::build },
    Architecture { name: "qwen2moe", build: qwen2::build },
    Architecture { name: "qwen3", build: qwen3::build },
    Architecture { name: "qwen3moe", build: qwen3::build },
    Architecture { name: "smollm3", build: smollm3::build },
];

/// GGUF's names of the supported architectures.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|a| a.name)
}

/// The hyper-parameters and the graph of a model, for contexts of `n_ctx` positions, or as many as it was trained on.
///
/// # Errors
/// If the architecture is unknown, or a key or a tensor is missing or makes no sense.
pub(crate) fn describe(source: &dyn Source, n_ctx: Option<usize>) -> Result<(Config, Graph)> {
    let architecture = Architecture::of(source.metadata())?;
    let keys = Keys::new(source, architecture.name);
    let config = Config::read(&keys)?;
    let keys = keys.for_context(n_ctx.unwrap_or(config.n_ctx));
    let shapes = |name: &str| source.shape(name).map(<[usize]>::to_vec);
    let builder = GraphBuilder::new(architecture.name, &shapes);
    let logits = (architecture.build)(&keys, &config, &builder)?;
    Ok((config, builder.finish(logits)?))
}

/// A model that a back end can compile. It keeps the file mapped by itself.
#[derive(Debug, Clone)]
pub struct Model {
    /// Hyper-parameters.
    pub config: Config,
    /// What it computes.
    pub graph: Graph,
    /// The weights of the graph, by name.
    weights: HashMap<String, Weight>,
}

impl Model {
    /// Reads the hyper-parameters, builds the graph, and finds its weights, none of which is copied. The graph is for
    /// contexts as long as the model was trained on.
    ///
    /// # Errors
    /// If the architecture is unknown, a key or a tensor is missing or makes no sense, or a tensor has a format that
    /// halfbyte does not compute with.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::build(gguf, None)
    }

    /// The same for contexts of `n_ctx` positions, which models with LongRoPE have other frequencies for.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn for_context(gguf: &Gguf, n_ctx: usize) -> Result<Self> {
        Self::build(gguf, Some(n_ctx))
    }

    fn build(gguf: &Gguf, n_ctx: Option<usize>) -> Result<Self> {
        let (config, graph) = describe(gguf, n_ctx)?;
        let mut weights = HashMap::new();
        for weight in graph.ops.iter().flat_map(|op| op.weights()) {
            let tensor =
                gguf.weight(&weight.name)?.ok_or_else(|| Error::MissingTensor { tensor: weight.name.clone() })?;
            weights.insert(weight.name.clone(), tensor);
        }
        Ok(Self { config, graph, weights })
    }
}

impl Weights for Model {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.weights.get(name).cloned()
    }
}
