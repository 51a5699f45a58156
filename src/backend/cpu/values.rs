//! The values of a step: where each one lives. They share buffers, one after the other, unless all are to be kept.

use super::advice::want_large_pages;
use crate::backend::{Limits, Step, Want};
use crate::graph::{Graph, Rows, Value, ValueId};

/// Buffers for all values of a graph, allocated once, and how much of them the last step used.
pub(super) struct Values {
    values: Vec<Value>,
    /// For each value its buffer.
    buffer_of: Vec<usize>,
    buffers: Vec<Vec<f32>>,
    /// T of the last step.
    n_rows: usize,
    /// N of the last step.
    n_outputs: usize,
}

impl Values {
    /// Buffers for `graph`, whose ops run in the order of `groups`, those of a group together; with `keep` each value
    /// has one of its own, so that all of them outlive the step.
    pub(super) fn new(graph: &Graph, groups: &[Vec<usize>], limits: &Limits, keep: bool) -> Self {
        let Plan { buffer_of, buffer_lens } = Plan::new(graph, groups, limits, keep);
        let buffers: Vec<Vec<f32>> = buffer_lens.iter().map(|&len| vec![0.0; len]).collect();
        buffers.iter().for_each(|buffer| want_large_pages(buffer));
        Self { values: graph.values.clone(), buffer_of, buffers, n_rows: 0, n_outputs: 0 }
    }

    /// Sets T and N.
    pub(super) fn begin(&mut self, step: &Step<'_>) {
        self.n_rows = step.rows.len();
        self.n_outputs = if step.want == Want::Nothing { 0 } else { step.outputs.len() };
    }

    /// The numbers of a value, `[T or N, width]`.
    pub(super) fn get(&self, id: ValueId) -> &[f32] {
        &self.buffers[self.buffer_of[id.index()]][..self.len(id)]
    }

    /// T · width or N · width.
    pub(super) fn len(&self, id: ValueId) -> usize {
        let value = &self.values[id.index()];
        let rows = match value.rows {
            Rows::Step => self.n_rows,
            Rows::Output => self.n_outputs,
        };
        rows * value.width
    }

    /// Takes a value's buffer out, so that an op can write it while it reads others; the plan gives no op one buffer
    /// for both.
    pub(super) fn take(&mut self, id: ValueId) -> Vec<f32> {
        std::mem::take(&mut self.buffers[self.buffer_of[id.index()]])
    }

    /// Puts it back.
    pub(super) fn put(&mut self, id: ValueId, buffer: Vec<f32>) {
        self.buffers[self.buffer_of[id.index()]] = buffer;
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| size_of_val(&buffer[..])).sum()
    }
}

/// Which buffer each value gets.
struct Plan {
    buffer_of: Vec<usize>,
    /// For each buffer its length in numbers.
    buffer_lens: Vec<usize>,
}

impl Plan {
    fn new(graph: &Graph, groups: &[Vec<usize>], limits: &Limits, keep: bool) -> Self {
        let last_uses = last_uses(graph, groups);
        let mut plan = Self { buffer_of: vec![0; graph.ops.len()], buffer_lens: Vec::new() };
        let mut free: Vec<usize> = Vec::new();
        for (g, group) in groups.iter().enumerate() {
            let mut done = Vec::new();
            for &i in group {
                let value = &graph.values[i];
                let rows = match value.rows {
                    Rows::Step => limits.max_rows,
                    Rows::Output => limits.max_outputs,
                };
                // Taken before the inputs are given back: no op writes where it reads.
                plan.buffer_of[i] = plan.take(&mut free, rows * value.width);
                done.extend(graph.ops[i].inputs().iter().map(|input| input.index()));
                done.push(i);
            }
            done.sort_unstable();
            done.dedup();
            done.retain(|&v| !keep && last_uses[v] == g);
            free.extend(done.iter().map(|&v| plan.buffer_of[v]));
        }
        plan
    }

    /// The free buffer that fits best: the smallest that is long enough, else the longest, which grows.
    fn take(&mut self, free: &mut Vec<usize>, len: usize) -> usize {
        let fit = |&buffer: &usize| {
            let has = self.buffer_lens[buffer];
            if has >= len { (0, has - len) } else { (1, len - has) }
        };
        let best = (0..free.len()).min_by_key(|&i| fit(&free[i]));
        let buffer = best.map_or(self.buffer_lens.len(), |i| free.swap_remove(i));
        match self.buffer_lens.get_mut(buffer) {
            Some(has) => *has = len.max(*has),
            None => self.buffer_lens.push(len),
        }
        buffer
    }
}

/// For each value the last group that reads it (its own if none does).
fn last_uses(graph: &Graph, groups: &[Vec<usize>]) -> Vec<usize> {
    let mut last = vec![0; graph.ops.len()];
    for (g, group) in groups.iter().enumerate() {
        for &i in group {
            last[i] = last[i].max(g);
            for input in graph.ops[i].inputs() {
                last[input.index()] = g;
            }
        }
    }
    last[graph.logits.index()] = groups.len();
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;

    #[test]
    fn no_value_is_overwritten_before_its_last_use() {
        let g = GraphBuilder::new("test", &|name: &str| match name {
            "token_embd.weight" | "output.weight" => Some(vec![16, 8]),
            "output.bias" => None,
            _ => Some(vec![8]),
        });
        let mut x = g.embed("token_embd", 16, 8, 1.0);
        for il in 0..3 {
            let b = g.block(il);
            let h = b.rms_norm("attn_norm", x, 1e-5);
            x = b.add(x, h);
        }
        let logits = g.matmul("output", g.output_rows(x), 16);
        let graph = g.finish(logits).expect("a graph");
        let limits = Limits { max_rows: 4, max_outputs: 2, max_seqs: 1, n_ctx: 32, n_pages: 1 };

        let groups: Vec<Vec<usize>> = (0..graph.ops.len()).map(|i| vec![i]).collect();
        let plan = Plan::new(&graph, &groups, &limits, false);
        let last_uses = graph.last_uses();
        for (i, a) in plan.buffer_of.iter().enumerate() {
            for (j, b) in plan.buffer_of.iter().enumerate().skip(i + 1) {
                assert!(a != b || last_uses[i] < j, "{} and {}", graph.values[i].name, graph.values[j].name);
            }
        }
        assert_eq!(plan.buffer_lens.len(), 3, "the stream, a norm, and what comes of both");

        let kept = Plan::new(&graph, &groups, &limits, true);
        assert_eq!(kept.buffer_lens.len(), graph.ops.len());
    }
}
