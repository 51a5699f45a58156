//! Graphs in the shapes of well-known models, with one layer of each kind and no weights: what kernels are listed and
//! checked for. Which kernels a graph needs is data, so a model need not be there to know them.

use std::sync::Arc;

use crate::backend::Weights;
use crate::graph::{Activation, AttentionOptions, Block, Gating, Graph, GraphBuilder, Rope, RopeKind, Val};
use crate::quant::{Format, SharedBytes, Weight};

/// A model's shape, and what its architecture does beyond the plainest one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Specimen {
    pub name: &'static str,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_vocab: usize,
    rope: RopeKind,
    act: Activation,
    /// Biases of q, k and v.
    qkv_bias: bool,
    /// A norm on each head of q and k.
    head_norm: bool,
    /// Norms after each half of a layer.
    post_norm: bool,
    /// A second layer has this window.
    window: Option<usize>,
    /// Bounds on scores and logits.
    softcaps: Option<[f32; 2]>,
    /// A logit for each head that weighs no value.
    sinks: bool,
    /// In place of the feed-forward layer.
    experts: Option<Experts>,
    /// A factor on logits.
    logit_scale: Option<f32>,
}

/// A mixture of experts, each of which is as wide as the feed-forward layer would be.
#[derive(Debug, Clone, Copy)]
struct Experts {
    n_expert: usize,
    n_used: usize,
    gating: Gating,
    bias: bool,
    /// A bias for the choice.
    choice_bias: bool,
    /// One more that all rows use, with a gate for each row.
    shared: bool,
}

const QWEN3_EXPERTS: Experts =
    Experts { n_expert: 128, n_used: 8, gating: Gating::All, bias: false, choice_bias: false, shared: false };

const LLAMA: Specimen = Specimen {
    name: "llama-2-7b",
    n_embd: 4096,
    n_ff: 11008,
    n_head: 32,
    n_head_kv: 32,
    head_dim: 128,
    n_vocab: 32000,
    rope: RopeKind::Norm,
    act: Activation::Silu,
    qkv_bias: false,
    head_norm: false,
    post_norm: false,
    window: None,
    softcaps: None,
    sinks: false,
    experts: None,
    logit_scale: None,
};

/// Each size of a head, each activation, and each thing that one architecture does and another doesn't.
pub(crate) static ALL: &[Specimen] = &[
    Specimen {
        name: "smollm2-135m",
        n_embd: 576,
        n_ff: 1536,
        n_head: 9,
        n_head_kv: 3,
        head_dim: 64,
        n_vocab: 49152,
        ..LLAMA
    },
    LLAMA,
    Specimen { name: "llama-3-8b", n_ff: 14336, n_head_kv: 8, n_vocab: 128256, ..LLAMA },
    Specimen {
        name: "stablelm-3b",
        n_embd: 2560,
        n_ff: 6912,
        head_dim: 80,
        n_vocab: 50304,
        rope: RopeKind::Neox,
        ..LLAMA
    },
    Specimen {
        name: "phi-3-mini",
        n_embd: 3072,
        n_ff: 8192,
        head_dim: 96,
        n_vocab: 32064,
        rope: RopeKind::Neox,
        ..LLAMA
    },
    Specimen {
        name: "qwen2-7b",
        n_embd: 3584,
        n_ff: 18944,
        n_head: 28,
        n_head_kv: 4,
        n_vocab: 152_064,
        rope: RopeKind::Neox,
        qkv_bias: true,
        ..LLAMA
    },
    Specimen {
        name: "granite-3-2b",
        n_embd: 2048,
        n_ff: 8192,
        n_head_kv: 8,
        head_dim: 64,
        n_vocab: 49_155,
        logit_scale: Some(0.125),
        ..LLAMA
    },
    Specimen {
        name: "qwen3-30b-a3b",
        n_embd: 2048,
        n_ff: 768,
        n_head_kv: 4,
        n_vocab: 151_936,
        rope: RopeKind::Neox,
        head_norm: true,
        experts: Some(QWEN3_EXPERTS),
        ..LLAMA
    },
    Specimen {
        name: "qwen2-57b-a14b",
        n_embd: 3584,
        n_ff: 2560,
        n_head: 28,
        n_head_kv: 4,
        n_vocab: 151_936,
        rope: RopeKind::Neox,
        qkv_bias: true,
        experts: Some(Experts { n_expert: 64, shared: true, ..QWEN3_EXPERTS }),
        ..LLAMA
    },
    Specimen {
        name: "glm-4.5-air",
        n_ff: 1408,
        n_head: 96,
        n_head_kv: 8,
        n_vocab: 151_552,
        rope: RopeKind::Neox,
        qkv_bias: true,
        experts: Some(Experts { gating: Gating::NormedSigmoid, choice_bias: true, ..QWEN3_EXPERTS }),
        ..LLAMA
    },
    Specimen {
        name: "experts by sigmoids",
        n_embd: 2048,
        n_ff: 1024,
        experts: Some(Experts { gating: Gating::Sigmoid, ..QWEN3_EXPERTS }),
        ..LLAMA
    },
    Specimen {
        name: "gpt-oss-20b",
        n_embd: 2880,
        n_ff: 2880,
        n_head: 64,
        n_head_kv: 8,
        head_dim: 64,
        n_vocab: 201_088,
        rope: RopeKind::Neox,
        act: Activation::SwigluOai,
        window: Some(128),
        sinks: true,
        experts: Some(Experts { n_expert: 32, n_used: 4, gating: Gating::Used, bias: true, ..QWEN3_EXPERTS }),
        ..LLAMA
    },
    Specimen {
        name: "gemma-2-2b",
        n_embd: 2304,
        n_ff: 9216,
        n_head: 8,
        n_head_kv: 4,
        head_dim: 256,
        n_vocab: 256_000,
        rope: RopeKind::Neox,
        act: Activation::Gelu,
        post_norm: true,
        window: Some(4096),
        softcaps: Some([50.0, 30.0]),
        ..LLAMA
    },
    Specimen {
        name: "gemma-3-1b",
        n_embd: 1152,
        n_ff: 6912,
        n_head: 4,
        n_head_kv: 1,
        head_dim: 256,
        n_vocab: 262_144,
        rope: RopeKind::Neox,
        act: Activation::Gelu,
        head_norm: true,
        post_norm: true,
        window: Some(512),
        ..LLAMA
    },
];

const EPS: f32 = 1e-6;

impl Specimen {
    /// The lengths of the rows of its matrices: what a format's blocks have to divide.
    pub(crate) fn row_lens(&self) -> [usize; 3] {
        [self.n_embd, self.n_head * self.head_dim, self.n_ff]
    }

    /// One layer of each kind between embedding and logits.
    pub(crate) fn graph(&self) -> Graph {
        let shapes = |name: &str| self.shape(name);
        let g = GraphBuilder::new(self.name, &shapes);
        let n = self.head_dim;
        let inv_freq = (0..n / 2).map(|i| 10_000_f64.powf(-2.0 * i as f64 / n as f64)).collect();
        let rope = g.rope(Rope { kind: self.rope, inv_freq, scale: 1.0 });
        let mut x = g.embed("token_embd", self.n_vocab, self.n_embd, 1.0);
        let windows = [None, self.window];
        for (il, window) in windows.into_iter().enumerate().take(1 + usize::from(self.window.is_some())) {
            x = self.layer(&g.block(il), x, rope, window);
        }
        let h = g.rms_norm("output_norm", g.output_rows(x), EPS);
        let logits = g.matmul_tied("output", h, self.n_vocab, "token_embd");
        let logits = self.softcaps.map_or(logits, |[_, cap]| g.softcap(logits, cap));
        let logits = self.logit_scale.map_or(logits, |factor| g.scale(logits, factor));
        g.finish(logits).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn layer(&self, b: &Block<'_>, x: Val, rope: usize, window: Option<usize>) -> Val {
        let h = b.rms_norm("attn_norm", x, EPS);
        let head = |name: &str, n_head: usize| b.matmul(name, h, n_head * self.head_dim).heads(n_head);
        let (mut q, mut k) = (head("attn_q", self.n_head), head("attn_k", self.n_head_kv));
        let v = head("attn_v", self.n_head_kv);
        if self.head_norm {
            q = b.rms_norm("attn_q_norm", q, EPS);
            k = b.rms_norm("attn_k_norm", k, EPS);
        }
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let sinks = self.sinks.then_some("attn_sinks");
        let options = AttentionOptions { scale, window, softcap: self.softcaps.map(|[cap, _]| cap), sinks };
        let a = b.attention(b.rope(q, rope), b.rope(k, rope), v, options);
        let x = self.add(b, x, b.matmul("attn_output", a, self.n_embd), "post_attention_norm");

        let h = b.rms_norm("ffn_norm", x, EPS);
        let Some(experts) = self.experts else { return self.add(b, x, self.ffn(b, h), "post_ffw_norm") };
        let shared = experts.shared.then(|| b.row_gate(self.ffn(b, h), b.matmul("ffn_gate_inp_shexp", h, 1)));
        let x = shared.map_or(x, |y| b.add(x, y));
        b.add(x, self.mixture(b, h, experts))
    }

    fn ffn(&self, b: &Block<'_>, h: Val) -> Val {
        let h = b.gated(b.matmul("ffn_gate", h, self.n_ff), b.matmul("ffn_up", h, self.n_ff), self.act);
        b.matmul("ffn_down", h, self.n_embd)
    }

    fn mixture(&self, b: &Block<'_>, h: Val, Experts { n_expert, n_used, gating, .. }: Experts) -> Val {
        let route = b.route(b.matmul("ffn_gate_inp", h, n_expert), n_used, gating, 1.0);
        let product = |name: &str, x: Val, m: usize| b.expert_matmul(name, x, route, n_expert, m);
        let gate = product("ffn_gate", h, self.n_ff);
        let h = b.gated(gate, product("ffn_up", h, self.n_ff), self.act);
        b.expert_sum(product("ffn_down", h, self.n_embd), route)
    }

    fn add(&self, b: &Block<'_>, x: Val, y: Val, norm: &str) -> Val {
        b.add(x, if self.post_norm { b.rms_norm(norm, y, EPS) } else { y })
    }

    /// The shape of a tensor, if the model has it.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (name, kind) = name.rsplit_once('.')?;
        let name = name.rsplit_once('.').map_or(name, |(_, name)| name);
        if let Some(experts) = &self.experts {
            if name == "exp_probs_b" {
                return experts.choice_bias.then(|| vec![experts.n_expert]);
            }
            let shape = match name {
                "ffn_gate_inp" => Some(vec![experts.n_expert, self.n_embd]),
                "ffn_gate_exps" | "ffn_up_exps" => Some(vec![experts.n_expert, self.n_ff, self.n_embd]),
                "ffn_down_exps" => Some(vec![experts.n_expert, self.n_embd, self.n_ff]),
                _ => None,
            };
            if let Some(mut shape) = shape {
                if kind == "bias" {
                    shape.pop();
                }
                return (kind == "weight" || experts.bias).then_some(shape);
            }
        }
        let n_kv = self.n_head_kv * self.head_dim;
        let (m, k) = match name {
            "token_embd" => (self.n_vocab, self.n_embd),
            "attn_q" => (self.n_head * self.head_dim, self.n_embd),
            "attn_k" | "attn_v" => (n_kv, self.n_embd),
            "attn_output" => (self.n_embd, self.n_head * self.head_dim),
            "ffn_gate" | "ffn_up" => (self.n_ff, self.n_embd),
            "ffn_down" => (self.n_embd, self.n_ff),
            "attn_q_norm" | "attn_k_norm" => (1, self.head_dim),
            "attn_sinks" => (1, self.n_head),
            "ffn_gate_inp_shexp" => (1, self.n_embd),
            name if name.ends_with("_norm") => (1, self.n_embd),
            _ => return None,
        };
        match kind {
            "weight" if m == 1 => Some(vec![k]),
            "weight" => Some(vec![m, k]),
            "bias" if self.qkv_bias && ["attn_q", "attn_k", "attn_v"].contains(&name) => Some(vec![m]),
            _ => None,
        }
    }
}

/// Weights that have a format and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formats {
    /// Of most.
    pub most: &'static Format,
    /// Of v, down and the embedding, as mixed files have it.
    pub some: &'static Format,
}

impl Weights for Formats {
    fn weight(&self, name: &str) -> Option<Weight> {
        let other = ["token_embd.weight", "attn_v.weight", "ffn_down.weight"].iter().any(|end| name.ends_with(end));
        let format = if other { self.some } else { self.most };
        let nothing: [u8; 0] = [];
        Some(Weight { shape: vec![], format, bytes: SharedBytes::new(Arc::new(nothing)) })
    }
}
