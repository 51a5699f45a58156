//! The calls that turn logits into tokens on the device: the best of each row, or one drawn from the best few.
//!
//! Both take two stages. In the first a workgroup looks at a slice of a row, so that all of the device looks at a large
//! vocabulary; the second takes what the slices found, a workgroup a row.

use super::kernels::{Bind, Call, Grid, Lower};
use super::shader::{Constant, KernelKey};
use super::tune;
use crate::backend::MAX_TOP_K;

/// Bytes of a candidate: key and id.
const CANDIDATE_BYTES: usize = 8;

impl Lower<'_> {
    /// The calls that find the best token of each output row.
    pub(crate) fn argmax(&self) -> Vec<Call> {
        let first = [Bind::Tensor(self.fused.logits), Bind::Candidates];
        let then = [Bind::Candidates, Bind::Chosen];
        self.two_stages(["argmax", "argmax_merge"], &first, &then)
    }

    /// The calls that draw a token for each output row.
    pub(crate) fn draw(&self) -> Vec<Call> {
        let first = [Bind::Tensor(self.fused.logits), Bind::Draws, Bind::Candidates];
        let then = [Bind::Candidates, Bind::Draws, Bind::Chosen];
        self.two_stages(["top_k", "sample"], &first, &then)
    }

    /// Bytes of the candidates of a row of `n_vocab` logits.
    pub(crate) fn candidates_bytes(&self) -> usize {
        CANDIDATE_BYTES * MAX_TOP_K * self.n_slices()
    }

    fn n_slices(&self) -> usize {
        self.graph.n_vocab.div_ceil(tune::SLICE)
    }

    fn two_stages(&self, kernels: [&'static str; 2], first: &[Bind], then: &[Bind]) -> Vec<Call> {
        let wg = tune::reduction(self.caps, tune::SLICE);
        let constants: Vec<(&str, Constant)> = vec![
            ("D", self.graph.n_vocab.into()),
            ("SLICE", tune::SLICE.into()),
            ("SLICES", self.n_slices().into()),
            ("WG", wg.into()),
        ];
        let call = |kernel, binds: &[Bind], x: usize| Call {
            key: KernelKey { kernel, modules: vec![], constants: constants.clone() },
            binds: (0..).zip(binds.iter().cloned()).collect(),
            matrix: None,
            grid: Grid::PerRows { x: x as u32, rows_each: 1 },
        };
        vec![call(kernels[0], first, self.n_slices()), call(kernels[1], then, 1)]
    }
}
