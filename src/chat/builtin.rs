//! Templates for files that have none: the forms that whole families of models were trained on.
//!
//! Each is the template that its makers published, or says what their code writes; a system message goes where they put it.

/// A template of ours.
#[derive(Debug)]
pub struct Builtin {
    /// What it is called.
    pub name: &'static str,
    /// Its Jinja text.
    pub source: &'static str,
    /// Texts with which a turn ends or the next one begins. Files whose vocabulary has no tokens for these need them.
    pub stop: &'static [&'static str],
}

/// All of them, by name.
pub static BUILTIN: &[Builtin] = &[
    Builtin {
        name: "alpaca",
        source: include_str!("builtin/alpaca.jinja"),
        stop: &["### Instruction:", "### Response:"],
    },
    Builtin { name: "chatml", source: include_str!("builtin/chatml.jinja"), stop: &["<|im_end|>"] },
    Builtin { name: "gemma", source: include_str!("builtin/gemma.jinja"), stop: &["<end_of_turn>"] },
    Builtin { name: "llama2", source: include_str!("builtin/llama2.jinja"), stop: &["[INST]"] },
    Builtin { name: "llama3", source: include_str!("builtin/llama3.jinja"), stop: &["<|eot_id|>"] },
    Builtin { name: "mistral", source: include_str!("builtin/mistral.jinja"), stop: &["[INST]"] },
    Builtin { name: "vicuna", source: include_str!("builtin/vicuna.jinja"), stop: &["USER:"] },
    Builtin { name: "zephyr", source: include_str!("builtin/zephyr.jinja"), stop: &["<|user|>"] },
];

impl Builtin {
    /// The one with this name, `llama-2` and `Llama2` alike.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect();
        BUILTIN.iter().find(|builtin| builtin.name == plain)
    }

    /// The names of all.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|builtin| builtin.name)
    }
}
