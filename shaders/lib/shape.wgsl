//! shape — sizes of a matmul, so that one pipeline serves all weights of a format.
//!
//! exports shape  a uniform that the program writes when it is compiled
//! cpu     src/backend/gpu/kernels.rs

struct Shape {
    /// Weight rows in this binding.
    m: u32,
    /// Groups of 32 in a weight row.
    groups: u32,
    /// Elements between the rows of y.
    y_stride: u32,
    /// Where the rows of this binding begin in a row of y.
    y_offset: u32,
    /// Which count of `step` tells the rows of x.
    section: u32,
    /// Sums of squares that the factor on the results is made of.
    parts: u32,
    /// Where the sums of squares of this binding's rows begin.
    first_part: u32,
    /// Weight rows of the second matrix, where there are two.
    m2: u32,
}

@group(0) @binding(5) var<uniform> shape: Shape;
