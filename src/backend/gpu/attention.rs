//! The calls of attention: over tiles of a prompt, over splits of the positions that single rows see, and the splits
//! together.
//!
//! What a token attends to grows while the number of rows stays one: its positions are dealt out to workgroups, and how
//! many is known on the CPU when the step is encoded. A prompt has rows enough to fill a GPU without that.

use super::fuse::{Node, View};
use super::kernels::{Bind, Call, Constants, Grid, Lower, Mode, Modules};
use super::shader::KernelKey;
use super::tune;
use crate::backend::{PAGE_LEN, Row};
use crate::graph::{AttentionSpec, Graph, WeightRef};

/// Steps of at most this many rows split positions; longer ones are prompts.
pub(crate) const FEW: usize = 8;

/// Query heads and rows that a workgroup can take; the kernel keeps a sum for each.
const MOST_QUERIES: usize = 16;

/// The positions that a layer's rows see, and how they are dealt out; as `shaders/lib/visible.wgsl` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visible {
    /// 0 for none.
    pub window: u32,
    /// Positions of a split, whole pages.
    pub split: u32,
}

impl Visible {
    /// Splits of a row at `pos`.
    pub(crate) fn n_splits(self, pos: u32) -> u32 {
        let from = if self.window > 0 { (pos + 1).saturating_sub(self.window) } else { 0 };
        let page = PAGE_LEN as u32;
        (pos - from / page * page) / self.split + 1
    }

    /// The most splits that one of the rows has.
    pub(crate) fn most(self, rows: &[Row]) -> u32 {
        rows.iter().map(|row| self.n_splits(row.pos)).max().unwrap_or(0)
    }

    /// The most that any row can have.
    fn bound(self, n_ctx: usize) -> u32 {
        let last = n_ctx.max(1) as u32 - 1;
        // Of a window as much as possible is seen just before the end of a page.
        let positions = if self.window > 0 { (self.window + PAGE_LEN as u32 - 1).min(last + 1) } else { last + 1 };
        positions.div_ceil(self.split)
    }
}

/// Bytes of what splits leave for the merge, for the layer that needs most of it.
pub(crate) fn partials_bytes(graph: &Graph, max_rows: usize, n_ctx: usize) -> usize {
    let specs = graph.ops.iter().filter_map(|op| match op {
        crate::graph::Op::Attention { spec, .. } => Some(spec),
        _ => None,
    });
    let of = |spec: &AttentionSpec| match visible(spec, n_ctx).bound(n_ctx) as usize {
        1 => 0,
        n => 16 * max_rows.min(FEW) * n * spec.n_head * (spec.head_dim / 4 + 1),
    };
    specs.map(of).max().unwrap_or(0)
}

fn visible(spec: &AttentionSpec, n_ctx: usize) -> Visible {
    Visible { window: spec.window.unwrap_or(0) as u32, split: tune::attention_split(n_ctx) as u32 }
}

/// How a workgroup of `attention` is cut.
struct Shape {
    heads: usize,
    rows: usize,
    /// 0 for one split.
    split: u32,
    wg: usize,
    tile: usize,
}

/// q, k and v as they come from the matmuls, with what is still to be done to them.
struct Raw<'a> {
    qkv: [View; 3],
    norms: Option<&'a ([WeightRef; 2], f32)>,
    rope: usize,
}

impl Lower<'_> {
    /// All calls of an attention node.
    pub(super) fn attention(
        &self,
        q: usize,
        spec: &AttentionSpec,
        sinks: Option<&WeightRef>,
        y: usize,
        mode: Mode,
        calls: &mut Vec<Call>,
    ) {
        let visible = visible(spec, self.limits.n_ctx);
        let (wg, tile) = tune::attention(self.caps, spec.head_dim);
        let heads = heads_together(spec);
        let few = Shape { heads, rows: 1, split: visible.split, wg, tile };
        let (rows, raw) = match mode {
            Mode::One => ([1, 1], self.raw(q)),
            Mode::Many => ([1, FEW as u32], None),
        };
        let grid = Grid::Splits { x: (spec.n_head / heads) as u32, rows_each: 1, rows, visible: Some(visible) };
        calls.push(self.attention_call(q, spec, sinks, y, &few, raw.as_ref(), grid));
        if visible.bound(self.limits.n_ctx) > 1 {
            calls.push(self.merge(spec, y, visible, rows));
        }
        if mode == Mode::Many && self.limits.max_rows > FEW {
            let (wg, tile) = tune::attention_tile(self.caps, spec.head_dim);
            let rows = tune::attention_rows(self.caps, heads, spec.head_dim).min(MOST_QUERIES / heads).max(1);
            let tiles = Shape { heads, rows, split: 0, wg, tile };
            let x = (spec.n_head / heads) as u32;
            let grid = Grid::Splits { x, rows_each: rows as u32, rows: [FEW as u32 + 1, u32::MAX], visible: None };
            calls.push(self.attention_call(q, spec, sinks, y, &tiles, None, grid));
        }
    }

    /// Whether what `rope_kv` does with one row is folded into attention, which then binds q, rows, tables, keys, values, y,
    /// partials, k, v, angles, and the weights of norms and sinks.
    pub(super) fn folds(&self) -> bool {
        self.caps.max_bindings >= 12
    }

    /// Tensors that a step of one row does not make, since they are folded into attention.
    pub(super) fn folded(&self) -> Vec<usize> {
        let nodes = self.fused.nodes.iter().filter(|_| self.folds());
        nodes.filter_map(|node| if let Node::RopeKv { y, .. } = node { Some(*y) } else { None }).collect()
    }

    /// What is folded into attention to the query `q`, if it can be.
    fn raw(&self, q: usize) -> Option<Raw<'_>> {
        self.fused.nodes.iter().filter(|_| self.folds()).find_map(|node| match node {
            Node::RopeKv { q: view, k, v, norms, rope, y, .. } if *y == q => {
                Some(Raw { qkv: [*view, *k, *v], norms: norms.as_ref(), rope: *rope })
            }
            _ => None,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "a node, its shape and its grid")]
    fn attention_call(
        &self,
        q: usize,
        spec: &AttentionSpec,
        sinks: Option<&WeightRef>,
        y: usize,
        shape: &Shape,
        raw: Option<&Raw<'_>>,
        grid: Grid,
    ) -> Call {
        let (queries, quads) = (shape.heads * shape.rows, spec.head_dim / 4);
        let mut constants: Constants = vec![
            ("N_HEAD", spec.n_head.into()),
            ("N_HEAD_KV", spec.n_head_kv.into()),
            ("HEAD_DIM", spec.head_dim.into()),
            ("SCALE", spec.scale.into()),
            ("WINDOW", spec.window.unwrap_or(0).into()),
            ("SOFTCAP", spec.softcap.unwrap_or(0.0).into()),
            ("HEADS", shape.heads.into()),
            ("ROWS", shape.rows.into()),
            ("SPLIT", shape.split.into()),
            ("MAX_SPLITS", self.max_splits(spec).into()),
            ("WG", shape.wg.into()),
            ("TILE", shape.tile.into()),
            ("ROLLED", u32::from(!self.caps.software).into()),
            ("PARTS", parts(shape.wg, quads).into()),
            ("FOURS", queries.div_ceil(4).into()),
            ("QUERY_LEN", (queries * quads).into()),
            ("WEIGHTS_LEN", (queries.div_ceil(4) * shape.tile).into()),
        ];
        let layer = spec.layer;
        let mut modules: Modules = vec![
            ("prologue", if raw.is_some() { "fold" } else { "stored" }),
            ("kv", self.kv.module()),
            ("sinks", if sinks.is_some() { "learned" } else { "none" }),
        ];
        match self.caps.subgroup {
            Some(size) => {
                modules.push(("fours", "subgroup"));
                constants.extend([("SUBGROUP", size.into()), ("TEAMS", (shape.wg / size as usize).into())]);
            }
            None => modules.push(("fours", "workgroup")),
        }
        let query = raw.map_or(q, |raw| raw.qkv[0].tensor);
        let mut binds: Vec<_> = (0..)
            .zip([
                Bind::Tensor(query),
                Bind::Rows,
                Bind::Tables,
                Bind::Keys(layer),
                Bind::Values(layer),
                Bind::Tensor(y),
            ])
            .chain([(6, Bind::Partials)])
            .collect();
        binds.extend(sinks.map(|sinks| (9, Bind::Vector(vec![sinks.clone()]))));
        match raw {
            None => binds.push((12, Bind::Step)),
            Some(raw) => self.fold(raw, spec, shape.heads, &mut modules, &mut constants, &mut binds),
        }
        Call { key: KernelKey { kernel: "attention", modules, constants }, binds, matrix: None, grid }
    }

    /// What `shaders/prologue/fold.wgsl` needs beyond the kernel.
    fn fold(
        &self,
        raw: &Raw<'_>,
        spec: &AttentionSpec,
        heads: usize,
        modules: &mut Modules,
        constants: &mut Constants,
        binds: &mut Vec<(u32, Bind)>,
    ) {
        let [q, k, v] = raw.qkv;
        let len = (heads + 1) * spec.head_dim;
        constants.extend([
            ("Q_OFFSET", q.offset.into()),
            ("K_OFFSET", k.offset.into()),
            ("V_OFFSET", v.offset.into()),
            ("HEAD_LEN", len.into()),
            ("SQUARES_LEN", (len / 4).into()),
            ("FRESH_LEN", (spec.head_dim / 2).into()),
        ]);
        constants.extend(self.rope_constants(raw.rope));
        modules.push(("kv_store", self.kv.module()));
        binds.extend([(7, Bind::Tensor(k.tensor)), (10, Bind::Tensor(v.tensor)), (11, Bind::Angles(raw.rope))]);
        self.head_norm(raw.norms, modules, constants, binds);
    }

    /// The norm of each head, if there is one.
    pub(super) fn head_norm(
        &self,
        norms: Option<&([WeightRef; 2], f32)>,
        modules: &mut Modules,
        constants: &mut Constants,
        binds: &mut Vec<(u32, Bind)>,
    ) {
        match norms {
            None => modules.push(("head_norm", "none")),
            Some((weights, eps)) => {
                modules.push(("head_norm", "rms"));
                constants.push(("EPS", (*eps).into()));
                binds.push((8, Bind::Vector(weights.to_vec())));
            }
        }
    }

    fn max_splits(&self, spec: &AttentionSpec) -> u32 {
        visible(spec, self.limits.n_ctx).bound(self.limits.n_ctx)
    }

    fn merge(&self, spec: &AttentionSpec, y: usize, visible: Visible, rows: [u32; 2]) -> Call {
        let constants: Constants = vec![
            ("N_HEAD", spec.n_head.into()),
            ("N_HEAD_KV", spec.n_head_kv.into()),
            ("HEAD_DIM", spec.head_dim.into()),
            ("WINDOW", visible.window.into()),
            ("SPLIT", visible.split.into()),
            ("MAX_SPLITS", self.max_splits(spec).into()),
            ("WG", (spec.head_dim / 4).next_power_of_two().clamp(16, 64).into()),
        ];
        Call {
            key: KernelKey { kernel: "attention_merge", modules: vec![], constants },
            binds: vec![(0, Bind::Rows), (1, Bind::Partials), (2, Bind::Tensor(y))],
            matrix: None,
            grid: Grid::Merge { x: spec.n_head as u32, rows, visible },
        }
    }
}

/// Query heads of one KV head that a workgroup takes: all of them, or the largest part of which all are whole.
fn heads_together(spec: &AttentionSpec) -> usize {
    let group = spec.n_head / spec.n_head_kv;
    // Queries lie in workgroup memory, of which a device may have 16 KiB: half of it.
    let most = (8192 / (4 * spec.head_dim)).clamp(1, MOST_QUERIES / 2);
    (1..=most.min(group)).rev().find(|n| group.is_multiple_of(*n)).unwrap_or(1)
}

/// Parts in which positions are weighed: a power of two, of which four times as many are at most a page.
fn parts(wg: usize, quads: usize) -> usize {
    1 << (wg / quads).clamp(1, PAGE_LEN / 4).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_what_is_seen_and_no_more() {
        for (window, split) in [(0, 64), (0, 256), (5, 32), (33, 32), (512, 256), (1000, 64)] {
            let visible = Visible { window, split };
            for pos in 0..3000u32 {
                let from = if window > 0 { (pos + 1).saturating_sub(window) } else { 0 } / 32 * 32;
                let n = visible.n_splits(pos);
                assert!(from + (n - 1) * split <= pos && pos < from + n * split, "{visible:?} at {pos}");
                assert!(n <= visible.bound(3000), "{visible:?} at {pos}");
            }
        }
    }

    #[test]
    fn heads_of_a_group_stay_together_as_far_as_memory_allows() {
        let of = |n_head, n_head_kv, head_dim| {
            let scale = 1.0;
            heads_together(&AttentionSpec { layer: 0, n_head, n_head_kv, head_dim, scale, window: None, softcap: None })
        };
        assert_eq!(of(9, 3, 64), 3);
        assert_eq!(of(32, 32, 128), 1);
        assert_eq!(of(14, 2, 64), 7);
        assert_eq!(of(64, 4, 128), 8);
        assert_eq!(of(4, 1, 256), 4);
        assert_eq!(of(16, 1, 256), 8);
        assert_eq!(of(13, 1, 64), 1);
    }
}
