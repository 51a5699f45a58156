//! Opens arbitrary bytes as a GGUF file, and uses all of what opens: nothing may panic, hang or reach outside.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use halfbyte::gguf::{Gguf, Value};
use halfbyte::quant::SharedBytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let shared = SharedBytes::new(Arc::new(bytes.to_vec()));
    let Ok(file) = Gguf::from_bytes(shared, Path::new("fuzz.gguf")) else { return };
    for (key, value) in file.metadata().iter() {
        assert!(value.to_string().len() < 10_000, "values are shown cut");
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
        if let Ok(strings) = file.metadata().strings(key) {
            assert_eq!(strings.iter_lossy().count(), strings.iter_str().count());
        }
        let _ = (file.metadata().u32(key), file.metadata().u32s(key), file.metadata().f32s(key));
    }
    for tensor in file.tensors() {
        if let Ok(Some(weight)) = file.weight(&tensor.name) {
            assert_eq!(weight.to_f32().len(), tensor.n_elements());
        }
    }
});
