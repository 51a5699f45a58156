//! What a call costs: bytes that it moves and multiply-adds that it does, counted from what it binds.
//!
//! Bytes are those that have to come from memory or go there: every plane and vector once whatever the number of rows, a row
//! of an embedding per row, keys and values of the positions in use as often as workgroups read them; and the tensors of a
//! step, which mostly stay in caches, apart.

use super::KvFormat;
use super::fuse::Fused;
use super::kernels::{Bind, Call, Grid};
use super::memory::WeightMemory;
use crate::backend::Row;
use crate::graph::{Graph, KvShape};

/// What a call costs, by what it grows with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Multiply-adds for each row, and for each position that a row sees.
    ops: [u64; 2],
    /// Bytes of weights: whatever the rows, and for each row; and the most of the latter.
    weights: [u64; 2],
    most_weights: u64,
    /// Bytes of keys and values: for each row, and for each position that a row sees.
    kv: [u64; 2],
    /// Bytes of tensors for each row.
    tensors: u64,
    /// Positions that a row sees at most; 0 for all.
    window: u64,
}

/// Bytes that a call moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub weights: u64,
    pub kv: u64,
    pub tensors: u64,
}

/// The rows of a call, as far as its cost depends on them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    /// Rows of the call: of the step, or of its output.
    pub n: usize,
    /// Rows of the step.
    pub rows: &'a [Row],
}

/// Experts that a row uses, and that there are, if a call multiplies with experts.
fn experts(call: &Call) -> Option<(u64, u64)> {
    match call.grid {
        Grid::Slots { n_used, n_expert, .. } | Grid::Tiles { n_used, n_expert, .. } => {
            Some((u64::from(n_used), u64::from(n_expert)))
        }
        _ => None,
    }
}

impl Cost {
    pub(crate) fn of(call: &Call, graph: &Graph, fused: &Fused, weights: &WeightMemory, kv: KvFormat) -> Self {
        let mut cost = Self::default();
        if let Some((matrix, part)) = &call.matrix {
            let planes = weights.matrix(matrix);
            let part = &planes.parts[*part];
            let row_bytes = |row_len: usize| {
                let blocks = row_len / planes.format.block_len;
                planes.format.planes.iter().map(|plane| (blocks * plane.block_bytes) as u64).sum::<u64>()
            };
            let one = row_bytes(matrix.row_len());
            if call.key.kernel == "embed" {
                // Of a table in several parts, one has the row: the first one is charged for it.
                cost.weights[1] = if part.rows.start == 0 { one } else { 0 };
                cost.most_weights = u64::MAX;
            } else if let Some((n_used, n_expert)) = experts(call) {
                // Each row uses other experts, until all are used.
                let all = (part.rows.len() * matrix.row_len()) as u64;
                cost.most_weights = one * part.rows.len() as u64;
                cost.weights[1] = cost.most_weights * n_used / n_expert;
                cost.ops[0] = all * n_used / n_expert;
            } else {
                cost.weights[0] = one * part.rows.len() as u64;
                cost.ops[0] = (part.rows.len() * matrix.row_len()) as u64;
            }
        }
        let mut tensors = Vec::new();
        for (_, bind) in &call.binds {
            match bind {
                // q, k and v may be parts of one.
                Bind::Tensor(tensor) if !tensors.contains(tensor) => tensors.push(*tensor),
                Bind::Vector(names) => {
                    cost.weights[0] += names.iter().map(|name| 4 * (name.shape[0] * name.shape[1]) as u64).sum::<u64>();
                }
                Bind::Keys(layer) | Bind::Values(layer) => cost.cache(call, graph.kv[*layer], kv),
                _ => {}
            }
        }
        cost.tensors = tensors.iter().map(|tensor| 4 * fused.tensors[*tensor].width as u64).sum();
        // Elementwise work, as if a number took as long as a multiply-add.
        cost.ops[0] += cost.tensors / 4;
        cost.window = call.key.constant("WINDOW") as u64;
        cost
    }

    /// Keys, or values, of a layer.
    fn cache(&mut self, call: &Call, shape: KvShape, kv: KvFormat) {
        let head_bytes = kv.head_bytes(shape.head_dim) as u64;
        let folded = call.key.modules.contains(&("prologue", "fold"));
        if let Grid::Splits { x, rows_each, .. } = call.grid {
            // What a workgroup reads serves all its heads and rows.
            self.kv[1] += u64::from(x) * head_bytes / u64::from(rows_each);
            self.ops[1] += (call.key.constant("N_HEAD") * shape.head_dim as f64) as u64;
        }
        if folded || !matches!(call.grid, Grid::Splits { .. }) {
            self.kv[0] += shape.n_head_kv as u64 * head_bytes;
        }
    }

    /// Multiply-adds for these rows.
    pub(crate) fn ops(&self, span: Span<'_>) -> u64 {
        self.ops[0] * span.n as u64 + self.ops[1] * self.seen(span)
    }

    /// Multiply-adds for one row at a position.
    pub(crate) fn ops_of_row(&self, pos: u32) -> u64 {
        self.ops(Span { n: 1, rows: &[Row { token: 0, pos, seq: 0 }] })
    }

    /// Bytes moved for these rows.
    pub(crate) fn traffic(&self, span: Span<'_>) -> Traffic {
        let n = span.n as u64;
        Traffic {
            weights: self.weights[0] + (self.weights[1] * n).min(self.most_weights),
            kv: self.kv[0] * n + self.kv[1] * self.seen(span),
            tensors: self.tensors * n,
        }
    }

    /// Positions that the rows see, together.
    fn seen(&self, span: Span<'_>) -> u64 {
        if self.ops[1] == 0 {
            return 0;
        }
        let most = if self.window == 0 { u64::MAX } else { self.window };
        span.rows.iter().map(|row| (u64::from(row.pos) + 1).min(most)).sum()
    }
}
