//! Which format a tensor gets in a mix, by what it is for and which layer it is in.
//!
//! A matrix whose errors reach every position, or every layer after it, is worth more bits: the output, the values of
//! attention, the way down from the feed-forward layer, and among these the first and the last layers. The rules are
//! llama.cpp's, so that a file of a name is of one quality and size whoever made it:
//! <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp>.

use std::fmt;

use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::quant;

/// A named choice of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// llama.cpp's name.
    pub name: &'static str,
    /// Its number, `general.file_type`.
    pub file_type: u32,
    /// The format of most matrices.
    pub format: &'static str,
}

const fn row(name: &'static str, file_type: u32, format: &'static str) -> Mix {
    Mix { name, file_type, format }
}

const ALL: &[Mix] = &[
    row("F32", 0, "F32"),
    row("F16", 1, "F16"),
    row("BF16", 32, "BF16"),
    row("Q8_0", 7, "Q8_0"),
    row("Q6_K", 18, "Q6_K"),
    row("Q5_K_M", 17, "Q5_K"),
    row("Q5_K_S", 16, "Q5_K"),
    row("Q5_1", 9, "Q5_1"),
    row("Q5_0", 8, "Q5_0"),
    row("Q4_K_M", 15, "Q4_K"),
    row("Q4_K_S", 14, "Q4_K"),
    row("Q4_1", 3, "Q4_1"),
    row("Q4_0", 2, "Q4_0"),
    row("IQ4_NL", 25, "IQ4_NL"),
    row("IQ4_XS", 30, "IQ4_XS"),
    row("MXFP4_MOE", 38, "MXFP4"),
    row("Q3_K_L", 13, "Q3_K"),
    row("Q3_K_M", 12, "Q3_K"),
    row("Q3_K_S", 11, "Q3_K"),
    row("Q2_K", 10, "Q2_K"),
];

/// Other names.
const ALIASES: &[(&str, &str)] = &[("Q5_K", "Q5_K_M"), ("Q4_K", "Q4_K_M"), ("Q3_K", "Q3_K_M"), ("MXFP4", "MXFP4_MOE")];

/// Every mix whose format there is, from the largest to the smallest.
pub fn mixes() -> impl Iterator<Item = Mix> {
    ALL.iter().copied().filter(|mix| quant::by_name(mix.format).is_some())
}

impl Mix {
    /// The mix with this name, whatever the case of its letters, or with this number of llama.cpp's.
    ///
    /// # Errors
    /// If there is none.
    pub fn by_name(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case("COPY") {
            return Err(Error::Usage {
                what: "COPY would make the same file again".into(),
                hint: "to change a few tensors only, name what the file is and what they become: `Q4_K_M --tensor-type PATTERN=FORMAT \
                       --allow-requantize`"
                    .into(),
            });
        }
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
        let wanted = alias.map_or(name, |(_, name)| name);
        let number = name.parse().ok();
        mixes().find(|mix| mix.name.eq_ignore_ascii_case(wanted) || number == Some(mix.file_type)).ok_or_else(|| {
            Error::Usage {
                what: format!("there is nothing called {name} to quantize to"),
                hint: format!("one of: {}", mixes().map(|mix| mix.name).collect::<Vec<_>>().join(", ")),
            }
        })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What rules ask about a model.
pub(super) struct Facts {
    n_layer: usize,
    n_expert: usize,
    /// Query heads that share a key and value head, in the first layer.
    n_sharing: usize,
    /// A model of the size of Llama's 70B, in which eight query heads share little attn_v.
    is_70b: bool,
    /// Whether the embedding table is the output matrix, too.
    is_tied: bool,
    has_importance: bool,
}

impl Facts {
    /// Out of the metadata and the tensors of a file.
    pub(super) fn new<'a>(
        get: impl Fn(&str) -> Option<&'a Value>,
        mut tensors: impl Iterator<Item = Subject<'a>>,
        has_importance: bool,
    ) -> Self {
        let arch = match get("general.architecture") {
            Some(Value::String(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let count = |key: &str| match get(&format!("{arch}.{key}")) {
            Some(Value::Array(array)) => array.iter().next().and_then(|first| first.int()),
            value => value.and_then(Value::int),
        };
        let count = |key| count(key).and_then(|n| usize::try_from(n).ok());
        let n_head = count("attention.head_count").unwrap_or(0);
        let n_head_kv = count("attention.head_count_kv").unwrap_or(n_head);
        let n_layer = count("block_count").unwrap_or(0);
        Self {
            n_layer,
            n_expert: count("expert_count").unwrap_or(0),
            n_sharing: n_head.checked_div(n_head_kv).unwrap_or(0),
            is_70b: n_layer == 80 && n_head != n_head_kv && matches!(&arch[..], "llama" | "qwen2"),
            is_tied: tensors.all(|tensor| tensor.name != "output.weight"),
            has_importance,
        }
    }
}

/// A tensor, as far as rules ask.
#[derive(Debug, Clone, Copy)]
pub(in crate::convert) struct Subject<'a> {
    pub(in crate::convert) name: &'a str,
    pub(in crate::convert) shape: &'a [usize],
}

impl Subject<'_> {
    /// K
    fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The layer in its name: 3 for `blk.3.attn_q.weight`.
    fn layer(&self) -> Option<usize> {
        self.name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    TokenEmbd,
    Output,
    /// attn_v, and what is fused with it.
    AttnV,
    AttnK,
    AttnOutput,
    FfnDown,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        let has = |part| name.contains(part);
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::TokenEmbd,
            _ if has("attn_v.weight") || has("attn_qkv.weight") || has("attn_kv_b.weight") => Role::AttnV,
            _ if has("attn_k.weight") => Role::AttnK,
            _ if has("attn_output.weight") => Role::AttnOutput,
            _ if has("ffn_down") => Role::FfnDown,
            _ => Role::Other,
        }
    }
}

/// What a tensor is for, and which of its kind it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) role: Role,
    /// Its number among those that are for the same, in the order of layers.
    i: usize,
    /// How many those are.
    n: usize,
    /// The layer in its name.
    layer: Option<usize>,
}

/// Where each tensor is.
pub(super) fn places(tensors: &[Subject<'_>]) -> Vec<Place> {
    let mut order: Vec<usize> = (0..tensors.len()).filter(|&t| is_quantized(&tensors[t])).collect();
    order.sort_by_key(|&t| (tensors[t].layer(), tensors[t].name));
    let mut places: Vec<Place> =
        tensors.iter().map(|t| Place { role: Role::of(t.name), i: 0, n: 0, layer: t.layer() }).collect();
    for role in [Role::AttnV, Role::FfnDown] {
        let of_role: Vec<usize> = order.iter().copied().filter(|&t| places[t].role == role).collect();
        for (i, &t) in of_role.iter().enumerate() {
            (places[t].i, places[t].n) = (i, of_role.len());
        }
    }
    places
}

/// Parts of names of matrices that are small, or worth all their bits.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    ".position_embd",
    ".patch_embd",
    ".patch_merger",
];

/// Whether quantizing a file changes this tensor: matrices, alone or one for each expert.
pub(in crate::convert) fn is_quantized(tensor: &Subject<'_>) -> bool {
    let n_dims = tensor.shape.len() - tensor.shape.iter().take_while(|&&dim| dim == 1).count();
    let name = tensor.name;
    n_dims >= 2
        && name.ends_with("weight")
        && !matches!(name, "position_embd.weight" | "token_types.weight")
        && !KEPT.iter().any(|part| name.contains(part))
}

/// The format of a tensor at this place.
pub(super) fn format_of(mix: &Mix, place: Place, tensor: &Subject<'_>, facts: &Facts) -> &'static str {
    if quant::by_name(mix.format).is_some_and(|format| format.block_len == 1) {
        return mix.format;
    }
    let is_experts = tensor.shape.len() > 2 && tensor.shape[tensor.shape.len() - 3] > 1;
    match place.role {
        Role::Output => output(mix, tensor),
        Role::TokenEmbd if facts.is_tied => output(mix, tensor),
        _ if mix.name == "MXFP4_MOE" => {
            if is_experts {
                "MXFP4"
            } else {
                "Q8_0"
            }
        }
        Role::AttnV => attn_v(mix, place, facts),
        Role::AttnK if facts.n_expert == 8 => "Q8_0",
        Role::FfnDown => ffn_down(mix, place, facts),
        Role::AttnOutput => attn_output(mix, facts),
        _ => mix.format,
    }
}

fn output(mix: &Mix, tensor: &Subject<'_>) -> &'static str {
    let fits = quant::by_name(mix.format).is_some_and(|f| tensor.row_len().is_multiple_of(f.block_len));
    if mix.format == "Q8_0" || mix.format == "MXFP4" || !fits { "Q8_0" } else { "Q6_K" }
}

fn attn_v(mix: &Mix, place: Place, facts: &Facts) -> &'static str {
    let format = match mix.name {
        "Q2_K" => {
            if facts.n_sharing >= 4 {
                "Q4_K"
            } else {
                "Q3_K"
            }
        }
        "Q3_K_M" => {
            if place.i < 2 {
                "Q5_K"
            } else {
                "Q4_K"
            }
        }
        "Q3_K_L" => "Q5_K",
        "IQ4_NL" | "IQ4_XS" if facts.n_sharing >= 4 => "Q5_K",
        "Q4_K_M" | "Q5_K_M" if wants_more_bits(place.i, place.n) => "Q6_K",
        "Q4_K_S" if place.i < 4 => "Q5_K",
        _ => mix.format,
    };
    match format {
        _ if facts.n_expert == 8 => "Q8_0",
        "Q3_K" | "Q4_K" if facts.is_70b => "Q5_K",
        _ => format,
    }
}

fn ffn_down(mix: &Mix, place: Place, facts: &Facts) -> &'static str {
    // Tensors of experts need not come in the order of layers.
    let (i, n) = (if facts.n_expert > 1 { place.layer.unwrap_or(place.i) } else { place.i }, facts.n_layer);
    match mix.name {
        "Q2_K" => "Q3_K",
        "Q3_K_M" => {
            if i < n / 16 {
                "Q5_K"
            } else {
                "Q4_K"
            }
        }
        "Q3_K_L" => "Q5_K",
        "Q4_K_M" | "Q5_K_M" if wants_more_bits(i, n) => "Q6_K",
        "Q4_K_S" if i < n / 8 => "Q5_K",
        "IQ4_NL" | "IQ4_XS" if i < n / 8 && !facts.has_importance => "Q5_K",
        "Q4_0" if i < n / 8 && facts.has_importance => "Q4_1",
        "Q5_0" if i < n / 8 && facts.has_importance => "Q5_1",
        _ => mix.format,
    }
}

fn attn_output(mix: &Mix, facts: &Facts) -> &'static str {
    match mix.name {
        "Q2_K" | "Q3_K_S" | "Q3_K_M" | "Q4_K_S" | "Q4_K_M" | "IQ4_NL" | "IQ4_XS" if facts.n_expert == 8 => "Q5_K",
        _ if facts.n_expert == 8 => mix.format,
        "Q2_K" => "Q3_K",
        "Q3_K_M" => "Q4_K",
        "Q3_K_L" => "Q5_K",
        _ => mix.format,
    }
}

/// The first and the last eighth of the layers, and every third one between.
fn wants_more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// `format`, or the nearest one whose blocks fill the rows of `tensor`.
pub(super) fn fitting(format: &'static str, tensor: &Subject<'_>) -> &'static str {
    let k = tensor.row_len();
    let fits = |format| quant::by_name(format).is_none_or(|f| k.is_multiple_of(f.block_len));
    if fits(format) {
        return format;
    }
    let smaller_blocks = match format {
        "Q2_K" | "Q3_K" => "Q4_0",
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        "Q6_K" => "Q8_0",
        "IQ4_XS" => "IQ4_NL",
        _ => "F16",
    };
    if fits(smaller_blocks) { smaller_blocks } else { "F16" }
}
