//! ggml's table of tensor types: enough to name any type and to tell how many bytes a tensor takes.
//!
//! Wider than [`quant::ALL`](crate::quant::ALL) on purpose: a file with a type that halfbyte cannot compute with
//! can still be checked and inspected.
//!
//! Source: `ggml_type` in <https://github.com/ggml-org/ggml/blob/master/include/ggml.h>, and its block structs.

/// A type that a tensor can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// ggml's number.
    pub id: u32,
    /// ggml's name.
    pub name: &'static str,
    /// Numbers in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

const fn row(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> GgmlType {
    GgmlType { id, name, block_len, block_bytes }
}

impl GgmlType {
    /// Every type in use. The missing numbers belong to types that ggml has dropped (4, 5, 31–33, 36–38).
    pub const ALL: &'static [GgmlType] = &[
        row(0, "F32", 1, 4),
        row(1, "F16", 1, 2),
        row(2, "Q4_0", 32, 18),
        row(3, "Q4_1", 32, 20),
        row(6, "Q5_0", 32, 22),
        row(7, "Q5_1", 32, 24),
        row(8, "Q8_0", 32, 34),
        row(9, "Q8_1", 32, 36), // ggml's struct has two f16; the Python package says 40 but no file has this type
        row(10, "Q2_K", 256, 84),
        row(11, "Q3_K", 256, 110),
        row(12, "Q4_K", 256, 144),
        row(13, "Q5_K", 256, 176),
        row(14, "Q6_K", 256, 210),
        row(15, "Q8_K", 256, 292),
        row(16, "IQ2_XXS", 256, 66),
        row(17, "IQ2_XS", 256, 74),
        row(18, "IQ3_XXS", 256, 98),
        row(19, "IQ1_S", 256, 50),
        row(20, "IQ4_NL", 32, 18),
        row(21, "IQ3_S", 256, 110),
        row(22, "IQ2_S", 256, 82),
        row(23, "IQ4_XS", 256, 136),
        row(24, "I8", 1, 1),
        row(25, "I16", 1, 2),
        row(26, "I32", 1, 4),
        row(27, "I64", 1, 8),
        row(28, "F64", 1, 8),
        row(29, "IQ1_M", 256, 56),
        row(30, "BF16", 1, 2),
        row(34, "TQ1_0", 256, 54),
        row(35, "TQ2_0", 256, 66),
        row(39, "MXFP4", 32, 17),
        row(40, "NVFP4", 64, 36),
        row(41, "Q1_0", 128, 18),
    ];

    /// Stands in for a type that is not in the table, with the least that a tensor may take.
    pub(super) const UNKNOWN: GgmlType = row(u32::MAX, "?", 1, 1);

    /// The type with this number.
    pub fn by_id(id: u32) -> Option<&'static GgmlType> {
        Self::ALL.iter().find(|t| t.id == id)
    }

    /// Bytes of a tensor of this type.
    ///
    /// # Errors
    /// If the rows are not whole blocks, or the size is beyond what a file can have.
    pub fn tensor_bytes(&self, shape: &[usize]) -> Result<usize, String> {
        let row_len = shape.last().copied().unwrap_or(1);
        if !row_len.is_multiple_of(self.block_len) {
            return Err(format!("rows of {row_len} are not whole {} blocks of {}", self.name, self.block_len));
        }
        let n_rows = shape.iter().rev().skip(1).try_fold(1usize, |n, &dim| n.checked_mul(dim));
        n_rows
            .and_then(|n| n.checked_mul(row_len / self.block_len))
            .and_then(|n| n.checked_mul(self.block_bytes))
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| format!("shape {shape:?} is beyond any memory"))
    }
}
