//! What several test modules need: paths, golden data, error measures.
#![allow(dead_code, reason = "each test module uses a part of it")]

use std::path::{Path, PathBuf};

use crate::tiny;

/// What a `Program` around another one, its field `program`, leaves to that.
macro_rules! as_its_program {
    () => {
        fn tensor(&mut self, name: &str) -> halfbyte::Result<Option<Vec<f32>>> {
            self.program.tensor(name)
        }
        fn graph(&self) -> &halfbyte::graph::Graph {
            self.program.graph()
        }
        fn limits(&self) -> halfbyte::backend::Limits {
            self.program.limits()
        }
        fn info(&self) -> halfbyte::backend::Info {
            self.program.info()
        }
    };
}
pub(crate) use as_its_program;

/// A file of `tests/golden`, or one that is made of what is there.
pub(crate) fn golden(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    match name.strip_prefix("tiny/").and_then(|name| name.strip_suffix(".gguf")) {
        Some(name) if !path.exists() => tiny::file(name),
        _ => path,
    }
}

/// A real model that `./scripts/test` fetched.
pub(crate) fn real_model(file: &str) -> PathBuf {
    let dir = std::env::var_os("HALFBYTE_TEST_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".models"), PathBuf::from);
    let path = dir.join(file);
    assert!(path.is_file(), "{} is missing: run ./scripts/test, which fetches it", path.display());
    path
}

/// Normalized mean squared error of `found` to `expected`: Σ(f - e)² / Σe².
pub(crate) fn nmse(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error: f64 = found.iter().zip(expected).map(|(&f, &e)| (f64::from(f) - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    if norm == 0.0 { error } else { error / norm }
}

/// Reproducible random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Evenly distributed in [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Normally distributed, mean 0, variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos()
    }
}
