//! Links WGSL text: a kernel, and the modules that its header imports.
//!
//! Text, not modules of a compiler: a browser wants WGSL text, and `override` constants must survive. A kernel names
//! *slots* (`//! import quant, reduce`); a [`KernelKey`] says which file fills each. What varies is a file or a
//! constant, so there is nothing to preprocess.

use std::borrow::Cow;
use std::fmt;

use crate::quant;

/// Name and text of everything in `shaders/` but the quantized formats, which bring their own.
macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        /// `(path below shaders/ without the extension, text)`
        pub(crate) static SOURCES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../../../shaders/", $path, ".wgsl")))),*];
    };
}

sources![
    "act/gelu",
    "act/silu",
    "act/swiglu_oai",
    "add",
    "argmax",
    "argmax_merge",
    "attention",
    "attention_merge",
    "bias/none",
    "bias/vector",
    "denormals",
    "dot/bytes",
    "dot/denormals",
    "dot/integers",
    "dot/pairs",
    "embed",
    "epilogue/add",
    "epilogue/gated",
    "epilogue/store",
    "expert_bias/none",
    "expert_bias/pairs",
    "expert_bias/vector",
    "expert_epilogue/gated",
    "expert_epilogue/store",
    "expert_matvec",
    "expert_sort",
    "expert_sum",
    "fold/gain",
    "fold/none",
    "fold/squares",
    "fours/subgroup",
    "fours/workgroup",
    "gated",
    "half/native",
    "half/packed",
    "head_norm/none",
    "head_norm/rms",
    "kv/f16",
    "kv/f32",
    "kv/q8_0",
    "kv_store/f16",
    "kv_store/f32",
    "kv_store/q8_0",
    "lanes/subgroup",
    "lanes/workgroup",
    "lib/best",
    "lib/candidate",
    "lib/draw",
    "lib/group",
    "lib/halves",
    "lib/iq4",
    "lib/k_scale",
    "lib/page",
    "lib/row",
    "lib/select",
    "lib/shape",
    "lib/sigmoid",
    "lib/token",
    "lib/turn",
    "lib/visible",
    "matmul",
    "matmul_coop16",
    "matmul_coop8",
    "matmul_tiled",
    "matvec",
    "matvec_dp4a",
    "matvec_few",
    "matvec_two",
    "memread",
    "norm_add",
    "output_rows",
    "prologue/fold",
    "prologue/stored",
    "reduce/subgroup",
    "reduce/workgroup",
    "residual/add",
    "residual/none",
    "rms_norm",
    "rope",
    "rope_kv",
    "route",
    "row_gate",
    "sample",
    "scale",
    "scale/none",
    "scale/rms",
    "score/biased",
    "score/sigmoid",
    "score/softmax",
    "sinks/learned",
    "sinks/none",
    "softcap",
    "store_kv",
    "tile/experts",
    "tile/rows",
    "top_k",
    "x/direct",
    "x/shared",
];

/// Which pipeline: a kernel, what fills its slots, and its constants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KernelKey {
    /// File name in `shaders/`, pipeline label and row of a profile.
    pub kernel: &'static str,
    /// `(slot, file)`: `("quant", "q4_1")`, `("reduce", "subgroup")`.
    pub modules: Vec<(&'static str, &'static str)>,
    /// Values of `override` constants; those that no linked file declares are left out.
    pub constants: Vec<(&'static str, Constant)>,
}

/// The value of an `override` constant, comparable by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Constant(u64);

impl Constant {
    /// As wgpu wants it.
    pub(crate) fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<usize> for Constant {
    fn from(value: usize) -> Self {
        Self((value as f64).to_bits())
    }
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Self(f64::from(value).to_bits())
    }
}

impl From<f32> for Constant {
    fn from(value: f32) -> Self {
        Self(f64::from(value).to_bits())
    }
}

impl fmt::Display for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kernel)?;
        for (_, file) in &self.modules {
            write!(f, ".{file}")?;
        }
        Ok(())
    }
}

impl KernelKey {
    /// The value of a constant; 0 if it has none.
    pub(crate) fn constant(&self, name: &str) -> f64 {
        self.constants.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, value)| value.value())
    }

    /// The linked text and the constants that it declares.
    ///
    /// # Panics
    /// If a slot is not filled, or a constant without a default has no value: our own tables are wrong then.
    pub(crate) fn link(&self) -> (String, Vec<(&'static str, f64)>) {
        let main = source(self.kernel);
        let mut parts = Vec::new();
        self.collect(main, &mut parts);
        parts.push(main.into());
        let mut text = String::new();
        for enable in parts.iter().flat_map(|part| part.lines()).filter(|line| line.starts_with("enable ")) {
            text.push_str(enable);
            text.push('\n');
        }
        for part in &parts {
            for line in part.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("enable ")) {
                text.push_str(line);
                text.push('\n');
            }
        }
        let mut constants = Vec::new();
        for declaration in text.lines().filter_map(|line| line.strip_prefix("override ")) {
            let name = declaration.split([':', ' ', '=', ';']).next().unwrap_or_default();
            match self.constants.iter().find(|(known, _)| *known == name) {
                Some((known, value)) => constants.push((*known, value.value())),
                None => assert!(declaration.contains('='), "{self}: no value for `{name}`"),
            }
        }
        (text, constants)
    }

    /// Appends what `text` imports, each file once, imports of imports first.
    fn collect(&self, text: &str, parts: &mut Vec<Cow<'static, str>>) {
        let slots = text.lines().find_map(|line| line.strip_prefix("//! import")).unwrap_or_default();
        for slot in slots.split(',').map(str::trim).filter(|slot| !slot.is_empty()) {
            let part = self.module(slot);
            if !parts.contains(&part) {
                self.collect(&part, parts);
                parts.push(part);
            }
        }
    }

    fn module(&self, slot: &str) -> Cow<'static, str> {
        let file = self.modules.iter().find(|(known, _)| *known == slot).map(|(_, file)| *file);
        match (slot, file) {
            ("quant", Some(name)) => self.format(name).into(),
            ("quant2", Some(name)) => second(self.format(name)).into(),
            (_, Some(file)) => source(&format!("{slot}/{file}")).into(),
            (_, None) => source(&format!("lib/{slot}")).into(),
        }
    }

    fn format(&self, name: &str) -> &'static str {
        quant::by_name(name).unwrap_or_else(|| panic!("{self}: no format {name}")).shader
    }
}

/// The text of a format beside another one in the same shader: what it exports has a 2 in its name, and its planes are
/// bindings 10, 11, … of group 0.
fn second(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_start = !out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let names = [
            ("quant_", "quant2_"),
            ("Quants", "Quants2"),
            ("HALVES", "HALVES2"),
            ("SIGNED_BY", "SIGNED_BY2"),
            ("w_", "w2_"),
        ];
        let renamed = names.iter().find(|(old, _)| is_start && rest.starts_with(old));
        let bound = [("@group(1) @binding(", "@group(0) @binding(1")];
        if let Some((old, new)) = renamed.or_else(|| bound.iter().find(|(old, _)| rest.starts_with(old))) {
            out.push_str(new);
            rest = &rest[old.len()..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn source(path: &str) -> &'static str {
    SOURCES.iter().find(|(known, _)| *known == path).unwrap_or_else(|| panic!("no shader {path}")).1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Of all kernels that programs are made of on devices of all kinds, those whose texts differ.
    #[test]
    fn every_kernel_is_valid() {
        let kernels = super::super::inventory::kernels(None).expect("specimens can be lowered");
        let mut seen = HashSet::new();
        let texts = kernels.iter().filter(|kernel| seen.insert(kernel.key.link().0)).collect::<Vec<_>>();
        assert!(texts.len() > 200, "only {} kernels", texts.len());
        for kernel in texts {
            let (text, constants) = kernel.key.link();
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|e| panic!("{}: {}", kernel.name, e.emit_to_string(&text)));
            let capabilities = naga::valid::Capabilities::SUBGROUP
                | naga::valid::Capabilities::SHADER_FLOAT16
                | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
                | naga::valid::Capabilities::COOPERATIVE_MATRIX;
            let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
            let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
            let values = constants.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let entry = Some((naga::ShaderStage::Compute, "main"));
            naga::back::pipeline_constants::process_overrides(&module, &info, entry, &values)
                .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        }
    }

    #[test]
    fn every_shader_file_is_a_source() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("shaders can be listed") {
                let path = entry.expect("shaders can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).expect("below").with_extension("");
                let name = name.to_str().expect("plain names").replace('\\', "/");
                let known = SOURCES.iter().any(|(known, _)| *known == name);
                let format = quant::ALL.iter().any(|f| name == format!("quant/{}", f.name.to_lowercase()));
                assert!(known || format, "shaders/{name}.wgsl is linked nowhere");
            }
        }
    }
}
