//! Which kernel multiplies many rows, and with which tile.
//!
//! Three ways: cooperative matrices, where the device has them and [`super::matrix`] has found that they compute what
//! they should; tiles in workgroup memory on other hardware; registers alone on a software adapter, where workgroup
//! memory is no nearer than any other.

use super::device::Capabilities;
use super::shader::Constant;
use super::tune;

/// Rows up to which the matrix is read once by a matvec of several columns.
pub(crate) const FEW: u32 = 8;

/// A kernel for many rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Many {
    pub kernel: &'static str,
    pub constants: Vec<(&'static str, Constant)>,
    /// Rows of W, and of x, that a workgroup takes.
    pub tile: [usize; 2],
    /// Whether the slot `x` says how x is read; otherwise the kernel does.
    pub has_x: bool,
}

/// The best kernel for many rows that the device can run.
pub(crate) fn many(caps: &Capabilities) -> Many {
    if let Some(unit) = caps.matrix {
        let (kernel, tile) = match unit.side {
            8 => ("matmul_coop8", [64, 32]),
            _ => ("matmul_coop16", [64, 64]),
        };
        return Many { kernel, constants: vec![("WG", unit.workgroup.into())], tile, has_x: false };
    }
    if caps.software {
        return plain();
    }
    tiled()
}

/// Registers alone: an invocation makes a tile of 4 × 6.
pub(crate) fn plain() -> Many {
    let wg = tune::MATMUL;
    Many { kernel: "matmul", constants: vec![("WG", wg.into())], tile: [4 * wg, 6], has_x: true }
}

/// Tiles of W and x in workgroup memory.
pub(crate) fn tiled() -> Many {
    let wg = tune::MATMUL_TILED;
    let constants = vec![("WG", wg.into()), ("X_LEN", (4 * wg).into())];
    Many { kernel: "matmul_tiled", constants, tile: [64, wg / 2], has_x: false }
}
