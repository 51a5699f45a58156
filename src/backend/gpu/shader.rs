//! Links WGSL text: a kernel, and the modules that its header imports.
//!
//! Text, not modules of a compiler: a browser wants WGSL text, and `override` constants must survive. A kernel names
//! *slots* (`//! import quant, reduce`); a [`KernelKey`] says which file fills each. What varies is a file or a
//! constant, so there is nothing to preprocess.

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
    "add",
    "argmax",
    "argmax_merge",
    "attention",
    "attention_merge",
    "bias/none",
    "bias/vector",
    "embed",
    "epilogue/add",
    "epilogue/gated",
    "epilogue/store",
    "fours/subgroup",
    "fours/workgroup",
    "gated",
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
    "lib/page",
    "lib/row",
    "lib/select",
    "lib/shape",
    "lib/token",
    "lib/turn",
    "lib/visible",
    "matmul",
    "matmul_coop16",
    "matmul_coop8",
    "matmul_tiled",
    "matvec",
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
    "sample",
    "sinks/learned",
    "sinks/none",
    "softcap",
    "store_kv",
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
    /// The linked text and the constants that it declares.
    ///
    /// # Panics
    /// If a slot is not filled, or a constant without a default has no value: our own tables are wrong then.
    pub(crate) fn link(&self) -> (String, Vec<(&'static str, f64)>) {
        let main = source(self.kernel);
        let mut parts = Vec::new();
        self.collect(main, &mut parts);
        parts.push(main);
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
    fn collect(&self, text: &'static str, parts: &mut Vec<&'static str>) {
        let slots = text.lines().find_map(|line| line.strip_prefix("//! import")).unwrap_or_default();
        for slot in slots.split(',').map(str::trim).filter(|slot| !slot.is_empty()) {
            let part = self.module(slot);
            if !parts.contains(&part) {
                self.collect(part, parts);
                parts.push(part);
            }
        }
    }

    fn module(&self, slot: &str) -> &'static str {
        let file = self.modules.iter().find(|(known, _)| *known == slot).map(|(_, file)| *file);
        match (slot, file) {
            ("quant", Some(name)) => {
                let format = quant::ALL.iter().find(|format| format.name.eq_ignore_ascii_case(name));
                format.unwrap_or_else(|| panic!("{self}: no format {name}")).shader
            }
            (_, Some(file)) => source(&format!("{slot}/{file}")),
            (_, None) => source(&format!("lib/{slot}")),
        }
    }
}

fn source(path: &str) -> &'static str {
    SOURCES.iter().find(|(known, _)| *known == path).unwrap_or_else(|| panic!("no shader {path}")).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that can fill a slot, where others are filled.
    fn choices(slot: &str, filled: &[(&'static str, &'static str)]) -> Vec<&'static str> {
        match slot {
            // What is written is what is read.
            "kv_store" => filled.iter().filter(|(known, _)| *known == "kv").map(|(_, file)| *file).collect(),
            "quant" => quant::ALL.iter().map(|format| format.name).collect(),
            _ => SOURCES.iter().filter_map(|(path, _)| path.strip_prefix(slot)?.strip_prefix('/')).collect(),
        }
    }

    /// Slots below `text`, imports of imports included; `filled` decides what is in a slot.
    fn slots(text: &str, filled: &[(&'static str, &'static str)]) -> Vec<&'static str> {
        const ALL: &[&str] = &[
            "x",
            "quant",
            "reduce",
            "lanes",
            "kv",
            "kv_store",
            "fours",
            "sinks",
            "prologue",
            "epilogue",
            "bias",
            "act",
            "residual",
            "head_norm",
        ];
        let imports = text.lines().find_map(|line| line.strip_prefix("//! import")).unwrap_or_default();
        let mut found = Vec::new();
        for import in imports.split(',').map(str::trim) {
            if let Some(slot) = ALL.iter().find(|slot| **slot == import) {
                found.push(*slot);
                if let Some((_, file)) = filled.iter().find(|(known, _)| known == slot)
                    && *slot != "quant"
                {
                    found.extend(slots(source(&format!("{slot}/{file}")), filled));
                }
            } else if !import.is_empty() {
                found.extend(slots(source(&format!("lib/{import}")), filled));
            }
        }
        found
    }

    /// Every way to fill the slots of a kernel.
    fn variants(kernel: &'static str, filled: Vec<(&'static str, &'static str)>, out: &mut Vec<KernelKey>) {
        let open =
            slots(source(kernel), &filled).into_iter().find(|slot| filled.iter().all(|(known, _)| known != slot));
        match open {
            None => out.push(KernelKey { kernel, modules: filled, constants: constants() }),
            Some(slot) => {
                for file in choices(slot, &filled) {
                    let mut filled = filled.clone();
                    filled.push((slot, file));
                    variants(kernel, filled, out);
                }
            }
        }
    }

    fn constants() -> Vec<(&'static str, Constant)> {
        let sizes = ["K", "D", "X_LEN", "ROWS", "HEAD_DIM", "N_ROT", "WG", "N_HEAD", "N_HEAD_KV", "SLICE", "SLICES"];
        let lens = ["HEAD_LEN", "SQUARES_LEN", "FRESH_LEN", "QUERY_LEN", "WEIGHTS_LEN", "SPLIT", "MAX_SPLITS", "TILE"];
        let others = ["ROW0", "NEOX", "WINDOW", "Q_OFFSET", "K_OFFSET", "V_OFFSET"];
        let strides = ["Q_STRIDE", "K_STRIDE", "V_STRIDE"];
        let reals = ["EPS", "SCALE", "CAP", "SOFTCAP"];
        let small = [("LANES", 4_u32), ("SUBGROUP", 8), ("TEAMS", 8), ("HEADS", 3), ("ROWS", 1), ("FOURS", 1)];
        sizes
            .iter()
            .chain(&strides)
            .chain(&lens)
            .map(|name| (*name, Constant::from(64_u32)))
            .chain(others.iter().map(|name| (*name, Constant::from(0_u32))))
            .chain(reals.iter().map(|name| (*name, Constant::from(0.5_f32))))
            .chain(small.map(|(name, value)| (name, Constant::from(value))))
            .collect()
    }

    #[test]
    fn every_variant_of_every_kernel_is_valid() {
        let kernels = SOURCES.iter().map(|(path, _)| *path).filter(|path| !path.contains('/'));
        let mut keys = Vec::new();
        kernels.for_each(|kernel| variants(kernel, vec![], &mut keys));
        assert!(keys.len() > 200, "only {} variants", keys.len());
        for key in &keys {
            let (text, constants) = key.link();
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|e| panic!("{key} {:?}: {}", key.modules, e.emit_to_string(&text)));
            let capabilities = naga::valid::Capabilities::SUBGROUP
                | naga::valid::Capabilities::SHADER_FLOAT16
                | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
                | naga::valid::Capabilities::COOPERATIVE_MATRIX;
            let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
            let info = validator.validate(&module).unwrap_or_else(|e| panic!("{key} {:?}: {e:?}", key.modules));
            let values = constants.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            naga::back::pipeline_constants::process_overrides(
                &module,
                &info,
                Some((naga::ShaderStage::Compute, "main")),
                &values,
            )
            .unwrap_or_else(|e| panic!("{key} {:?}: {e}", key.modules));
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
