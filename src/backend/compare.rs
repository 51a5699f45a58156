//! Where two programs begin to differ: the same step on both, tensor by tensor in the graph's order.
//!
//! An error in one op shows in all that follow, so only the first tensor that is off is worth a name.

use std::fmt;

use super::{Program, Step};
use crate::error::Result;

/// How far a tensor is from what it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the tensor in the graph.
    pub tensor: String,
    /// Numbers in a row of it.
    pub width: usize,
    /// Normalized mean squared error: Σ(a - b)² / Σb².
    pub nmse: f64,
    /// What was allowed.
    pub limit: f64,
    /// Row and column of the largest difference.
    pub at: [usize; 2],
    /// The two numbers there.
    pub values: [f32; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, nmse, limit, at: [row, column], values: [a, b], .. } = self;
        write!(f, "{tensor}: nmse {nmse:.1e} (limit {limit:.0e}) at [{row}, {column}]: {a} instead of {b}")
    }
}

impl Difference {
    /// Whether the error is more than what was allowed, or is not a number.
    pub fn is_beyond(&self) -> bool {
        self.nmse.is_nan() || self.nmse > self.limit
    }
}

/// Runs `step` on both programs, which were compiled from one graph, and compares the tensors that both kept, in the
/// order in which they were made; b is the reference.
///
/// # Errors
/// If a device fails.
pub fn differences(a: &mut dyn Program, b: &mut dyn Program, step: &Step<'_>, limit: f64) -> Result<Vec<Difference>> {
    a.run(step)?;
    b.run(step)?;
    let values = b.graph().values.iter().filter(|value| value.width > 0);
    let names: Vec<(String, usize)> = values.map(|value| (value.name.clone(), value.width)).collect();
    let mut all = Vec::with_capacity(names.len());
    for (tensor, width) in names {
        let (Some(found), Some(expected)) = (a.tensor(&tensor)?, b.tensor(&tensor)?) else { continue };
        let (nmse, i) = (nmse(&found, &expected), worst(&found, &expected));
        let (at, values) = ([i / width, i % width], [found[i], expected[i]]);
        all.push(Difference { tensor, width, nmse, limit, at, values });
    }
    Ok(all)
}

/// The first of [`differences`] that is beyond the limit.
///
/// # Errors
/// As there.
pub fn first_difference(
    a: &mut dyn Program,
    b: &mut dyn Program,
    step: &Step<'_>,
    limit: f64,
) -> Result<Option<Difference>> {
    Ok(differences(a, b, step, limit)?.into_iter().find(Difference::is_beyond))
}

/// Σ(found - expected)² / Σexpected², or the numerator alone where nothing but zeros is expected.
///
/// # Panics
/// If the two are not of one length.
pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "tensors of one shape");
    let error: f64 = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let norm: f64 = expected.iter().map(|&b| f64::from(b).powi(2)).sum();
    if norm == 0.0 { error } else { error / norm }
}

/// The index of the largest difference; NaN is larger than any.
fn worst(found: &[f32], expected: &[f32]) -> usize {
    let difference = |i: &usize| {
        let d = (found[*i] - expected[*i]).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    (0..found.len()).max_by(|i, j| difference(i).total_cmp(&difference(j))).unwrap_or(0)
}
