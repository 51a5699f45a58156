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
    /// Slots that not all such kernels have: `x` says how x is read, `tile` which rows are multiplied by which matrix.
    pub slots: &'static [&'static str],
}

/// The best kernel for many rows that the device can run.
pub(crate) fn many(caps: &Capabilities) -> Many {
    if let Some(unit) = caps.matrix {
        let (kernel, tile) = match unit.side {
            8 => ("matmul_coop8", [64, 32]),
            _ => ("matmul_coop16", [64, 64]),
        };
        return Many { kernel, constants: vec![("WG", unit.workgroup.into())], tile, slots: &[] };
    }
    if caps.software { plain() } else { tiled(tune::MATMUL_TILED) }
}

/// The best one for rows that are sorted by expert: of these an expert has few, and a tile of 64 would be mostly padding.
pub(crate) fn experts(caps: &Capabilities) -> Many {
    if caps.software { plain() } else { tiled(tune::EXPERTS_TILED) }
}

/// Registers alone: an invocation makes a tile of 4 × 6.
pub(crate) fn plain() -> Many {
    let wg = tune::MATMUL;
    Many { kernel: "matmul", constants: vec![("WG", wg.into())], tile: [4 * wg, 6], slots: &["x", "tile"] }
}

/// Tiles of W and x in workgroup memory, by `wg` invocations.
pub(crate) fn tiled(wg: usize) -> Many {
    let constants = vec![("WG", wg.into()), ("X_LEN", (4 * wg).into())];
    Many { kernel: "matmul_tiled", constants, tile: [64, wg / 2], slots: &["tile"] }
}
