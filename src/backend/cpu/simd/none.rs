//! For processors without kernels of their own: the reference runs, and nothing here is ever called.

use super::activations::{ActivationRowMut, Activations};
use crate::backend::cpu::threads::Columns;
use crate::quant::Weight;

pub(in crate::backend::cpu) fn available() -> bool {
    false
}

pub(in crate::backend::cpu) mod matmul {
    //! See the module of this name for x86-64.

    use super::*;
    use crate::quant::Format;

    pub(in crate::backend::cpu) const PANEL: usize = 32;

    #[derive(Clone, Copy)]
    #[expect(dead_code, reason = "nothing reads it")]
    pub(in crate::backend::cpu) struct Input<'a> {
        pub(in crate::backend::cpu) x: &'a [f32],
        pub(in crate::backend::cpu) rounded: &'a Activations,
    }

    pub(in crate::backend::cpu) fn wants_rounded(_: &Format) -> bool {
        false
    }

    pub(in crate::backend::cpu) fn scratch_len(_: usize) -> usize {
        0
    }

    pub(in crate::backend::cpu) fn round(_: &[f32], _: ActivationRowMut<'_>) {
        unreachable!("not available")
    }

    pub(in crate::backend::cpu) fn matmul(
        _: &Weight,
        _: Option<&[f32]>,
        _: Input<'_>,
        _: &mut Columns<'_>,
        _: &mut [f32],
    ) {
        unreachable!("not available")
    }
}
