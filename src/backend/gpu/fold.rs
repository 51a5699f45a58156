//! RMSNorm without a kernel of its own, in steps of one row.
//!
//! A GPU runs the dispatches of a pass one after another, and a norm needs its whole row before it writes a number: for a
//! row of a few thousand numbers that is mostly waiting. But the factor of a norm is one number, and W·(h·gain·factor) is
//! (W·(h·gain))·factor. So the kernel that makes h also writes h·gain, and the sum of h² of each of its workgroups; the
//! matvec that reads h·gain adds these sums up, and applies the factor to its results.
//!
//! A norm whose result is added to a residual (Gemma's) can't leave its factor to others. It gets the sums of squares from
//! the matvec before it, so that it need not wait for its row; and then makes the next norm's sums.

use super::fuse::{Epilogue, Fused, Node, Tensor};
use crate::graph::Rows;

/// A norm whose sums of squares its neighbour makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fold {
    /// Index of the [`Node::RmsNorm`].
    pub norm: usize,
    /// Index of the node that makes what is normalized.
    pub producer: usize,
    /// The tensor of the sums of squares.
    pub parts: usize,
    /// Whether the producer applies the gain and the readers the factor, so that the norm itself does not run.
    pub is_gone: bool,
}

/// The most sums of squares for a row of `width`: a workgroup makes four numbers at least.
fn most_parts(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(4)
}

/// Finds the norms that can be folded, in order, since a norm can be the producer of another.
pub(crate) fn fold(fused: &mut Fused) {
    for norm in 0..fused.nodes.len() {
        let Node::RmsNorm { x, runs: 1, residual, y, .. } = fused.nodes[norm] else { continue };
        let is_gone = residual.is_none() && is_read_by_matmuls(fused, y);
        let (x, width) = (x.tensor, fused.tensors[y].width);
        let Some(producer) = producer(fused, x) else { continue };
        // Others that read picked rows would find none.
        if producer_of(fused, x) != Some(producer) && readers(fused, x).count() != 1 {
            continue;
        }
        let fits = match &fused.nodes[producer] {
            Node::MatMul { epilogue: Epilogue::Store, .. } => is_gone || residual.is_some(),
            Node::MatMul { epilogue: Epilogue::Add(_), .. } | Node::Embed { .. } | Node::ExpertSum(_) => is_gone,
            Node::RmsNorm { .. } => is_gone && fused.folds.iter().any(|f| f.norm == producer && !f.is_gone),
            _ => false,
        };
        let is_taken = fused.folds.iter().any(|f| f.producer == producer);
        if fits && !is_taken && width.is_multiple_of(32) {
            let parts = fused.tensors.len();
            fused.tensors.push(Tensor { rows: Rows::Step, width: most_parts(width), value: None });
            fused.folds.push(Fold { norm, producer, parts, is_gone });
            fused.is_direct |=
                is_gone && fused.nodes.iter().any(|node| matches!(node, Node::OutputRows { y, .. } if *y == x));
        }
    }
}

/// The node that makes a tensor, whose rows may be picked on the way: of one row there is nothing to pick.
fn producer(fused: &Fused, tensor: usize) -> Option<usize> {
    let i = producer_of(fused, tensor)?;
    match fused.nodes[i] {
        Node::OutputRows { x, .. } => producer(fused, x),
        _ => Some(i),
    }
}

/// The node that writes a tensor.
fn producer_of(fused: &Fused, tensor: usize) -> Option<usize> {
    fused.nodes.iter().position(|node| node.tensors().1 == Some(tensor))
}

/// The nodes that read a tensor.
fn readers(fused: &Fused, tensor: usize) -> impl Iterator<Item = &Node> {
    fused.nodes.iter().filter(move |node| node.tensors().0.contains(&tensor))
}

/// Whether all that read a tensor are matmuls, with experts too, of which it is the input.
fn is_read_by_matmuls(fused: &Fused, tensor: usize) -> bool {
    let is_input = |node: &Node| match node {
        Node::MatMul { x, epilogue, .. } => *x == tensor && *epilogue != Epilogue::Add(tensor),
        Node::ExpertMatMul(node) => node.x == tensor,
        _ => false,
    };
    readers(fused, tensor).next().is_some() && readers(fused, tensor).all(is_input)
}

impl Fused {
    /// The fold whose norm is this node.
    pub(crate) fn fold_of(&self, norm: usize) -> Option<&Fold> {
        self.folds.iter().find(|fold| fold.norm == norm)
    }

    /// The fold that this node makes the sums of.
    pub(crate) fn fold_after(&self, producer: usize) -> Option<&Fold> {
        self.folds.iter().find(|fold| fold.producer == producer)
    }

    /// The fold whose norm's result is this tensor, where the norm itself does not run.
    pub(crate) fn gone_norm(&self, tensor: usize) -> Option<&Fold> {
        self.folds.iter().find(|fold| fold.is_gone && self.nodes[fold.norm].tensors().1 == Some(tensor))
    }

    /// Tensors that node `i` writes: its own, and those of the fold that it is the producer of.
    pub(crate) fn written(&self, i: usize) -> Vec<usize> {
        let mut written: Vec<usize> = self.nodes[i].tensors().1.into_iter().collect();
        if let Some(fold) = self.fold_after(i) {
            written.push(fold.parts);
            written.extend(fold.is_gone.then(|| self.nodes[fold.norm].tensors().1).flatten());
        }
        written
    }
}
