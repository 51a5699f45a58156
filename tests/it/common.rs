//! What several test modules need: paths, golden data, error measures.
#![allow(dead_code, reason = "each test module uses a part of it")]

use std::path::{Path, PathBuf};

/// A file of `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
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
