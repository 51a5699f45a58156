//! Where two programs begin to differ: the same step on both, tensor by tensor in the graph's order.
//!
//! An error in one op shows in all that follow, so only the first tensor that is off is worth a name.

use std::fmt;

use super::{Program, Step};
use crate::error::Result;

/// The first tensor whose error is beyond the limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the tensor in the graph.
    pub tensor: String,
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
        let Self { tensor, nmse, limit, at: [row, column], values: [a, b] } = self;
        write!(f, "{tensor}: nmse {nmse:.1e} (limit {limit:.0e}) at [{row}, {column}]: {a} instead of {b}")
    }
}

/// Runs `step` on both programs, which were compiled from one graph, and compares the tensors that both kept, in the
/// order in which they were made; b is the reference.
///
/// # Errors
/// If a device fails.
pub fn first_difference(
    a: &mut dyn Program,
    b: &mut dyn Program,
    step: &Step<'_>,
    limit: f64,
) -> Result<Option<Difference>> {
    a.run(step)?;
    b.run(step)?;
    let names: Vec<(String, usize)> = b.graph().values.iter().map(|v| (v.name.clone(), v.width)).collect();
    for (name, width) in names {
        let (Some(found), Some(expected)) = (a.tensor(&name)?, b.tensor(&name)?) else { continue };
        let nmse = nmse(&found, &expected);
        if nmse.is_nan() || nmse > limit {
            let i = worst(&found, &expected);
            let (at, values) = ([i / width, i % width], [found[i], expected[i]]);
            return Ok(Some(Difference { tensor: name, nmse, limit, at, values }));
        }
    }
    Ok(None)
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
