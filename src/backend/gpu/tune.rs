//! Workgroup sizes and lane counts, with their evidence: the only place where a number was chosen by measuring.
//!
//! A software adapter has no coalescing to care for and pays for barriers, so there an invocation works alone; on
//! hardware neighbouring lanes read neighbouring memory.

use super::device::Capabilities;

/// How a matvec is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MatVec {
    /// Invocations of a workgroup.
    pub wg: usize,
    /// Invocations that share the same rows.
    pub lanes: usize,
    /// Rows that they share.
    pub rows: usize,
    /// Whether bytes are multiplied, four at a time.
    pub dp4a: bool,
}

impl MatVec {
    /// Workgroups for `m` rows.
    pub(crate) fn workgroups(self, m: usize) -> usize {
        m.div_ceil(self.rows * self.wg / self.lanes)
    }
}

/// For `m` rows of `n_groups` groups of 32, quantized or not.
///
/// Where hardware multiplies four bytes at a time, x is quantized to 15 bits first, by each workgroup for itself: 32 rows of
/// it share what that takes, 0.2 instructions a weight (RDNA3: 1.15 in the loop for Q4_0, in place of 2.2).
///
/// Four rows share what it costs to read x and to add it up: on Apple's G13 0.3 instructions a weight, twice that with two.
/// But where four leave fewer invocations than a GPU of middle size can hold, two fill it better (derived, not measured).
pub(crate) fn matvec(caps: &Capabilities, m: usize, n_groups: usize, is_quantized: bool) -> MatVec {
    if caps.software {
        // Lane by lane (Mesa 26.2's lavapipe, Q4_1, K 576): 1 lane 2.5, 2 lanes 1.8, 8 lanes 1.1 G weights/s.
        return MatVec { wg: 32, lanes: 1, rows: 4, dp4a: false };
    }
    const FULL: usize = 16_384;
    let widest = caps.subgroup.map_or(32, |size| size as usize).min(32);
    let lanes = lanes(n_groups, widest);
    if caps.dp4a && is_quantized {
        return MatVec { wg: 8 * lanes.max(4), lanes, rows: 4, dp4a: true };
    }
    MatVec { wg: MATVEC, lanes, rows: if m / 4 * lanes >= FULL { 4 } else { 2 }, dp4a: false }
}

/// The most lanes of which three quarters have something to do on average, and each at least two groups.
fn lanes(n_groups: usize, widest: usize) -> usize {
    let is_good = |&lanes: &usize| n_groups >= 2 * lanes && 4 * n_groups >= 3 * n_groups.next_multiple_of(lanes);
    let powers = std::iter::successors(Some(widest), |lanes| Some(lanes / 2));
    powers.take_while(|&lanes| lanes > 0).find(is_good).unwrap_or(1)
}

/// Invocations of a matvec's workgroup: two subgroups of most GPUs.
pub(crate) const MATVEC: usize = 64;

/// Groups of x that a matvec of bytes keeps in workgroup memory: 10 KiB, of 16 that every device has.
pub(crate) const DP4A_CHUNK: usize = 128;

/// How quants are multiplied: `shaders/dot/`. Arithmetic instructions a weight in the loop, four rows, Q4_0 / Q8_0:
///
/// | compiler | bytes | pairs | denormals |
/// | --- | --- | --- | --- |
/// | Apple G13 | 4.6 / 4.3 | 2.6 / 2.9 | 2.1 / 2.3 |
///
/// A software adapter converts bytes eight at a time, and has no f16 in its instructions.
pub(crate) fn dot(caps: &Capabilities) -> &'static str {
    match caps {
        Capabilities { software: true, .. } => "bytes",
        Capabilities { denormals: true, .. } => "denormals",
        _ => "pairs",
    }
}

/// Invocations of a norm whose sums of squares are there, with two elements each.
pub(crate) fn norm_add(caps: &Capabilities) -> usize {
    subgroup(caps).max(32)
}

/// Whether the invocations of a subgroup, which all need the same x where a team is one of them, share its loads.
///
/// A software adapter loads for each invocation in turn. SmolLM2 Q4_1, 2 cores, Mesa 22.3 / 26.2: tg 3.9 → 6.8 / 19 → 26
/// t/s, pp128 (tiles of 4 × 4) 6.2 → 15.5 / 47 → 43.
pub(crate) fn x_is_shared(caps: &Capabilities, lanes: usize) -> bool {
    caps.software && lanes == 1 && caps.subgroup == Some(8)
}

/// Invocations of a kernel that reduces over a row of `width` numbers.
pub(crate) fn reduction(caps: &Capabilities, width: usize) -> usize {
    let most = if caps.software { 32 } else { 256 };
    (width / 4).next_power_of_two().clamp(32, most).max(subgroup(caps))
}

/// Invocations of an attention workgroup for single rows, and positions that it takes at a time.
///
/// A software adapter switches between subgroups at every barrier: few of them, and many positions between barriers.
/// SmolLM2's shape at depth 2048, Mesa 26.2, CPU time of a layer (workgroup × positions): 32 × 32 0.82, 32 × 256 0.75,
/// 16 × 32 1.0, 16 × 128 0.55, 16 × 256 0.57 ms.
pub(crate) fn attention(caps: &Capabilities, head_dim: usize) -> (usize, usize) {
    let (least, tile) = if caps.software { (16, 128) } else { (128, 128) };
    let wg = attention_wg(caps, head_dim, least);
    (wg, wg.max(tile))
}

/// The same for tiles of rows.
///
/// Mesa 26.2, a prompt of 512, CPU time of a layer: 32 × 32 39, 32 × 128 30, 16 × 32 27, 16 × 128 29 ms.
pub(crate) fn attention_tile(caps: &Capabilities, head_dim: usize) -> (usize, usize) {
    let (least, tile) = if caps.software { (16, 32) } else { (64, 64) };
    let wg = attention_wg(caps, head_dim, least);
    (wg, wg.max(tile))
}

fn attention_wg(caps: &Capabilities, head_dim: usize, least: usize) -> usize {
    (head_dim / 4).next_power_of_two().max(least).max(subgroup(caps))
}

/// Rows of a tile, of which `heads` query heads are taken together. Each query has four sums in registers, of which 12 spill
/// on Apple G13, and its head in workgroup memory, of which a device may have 16 KiB.
pub(crate) fn attention_rows(caps: &Capabilities, heads: usize, head_dim: usize) -> usize {
    let queries = if head_dim > 128 || !caps.software { 8 } else { 12 };
    (queries / heads).max(1)
}

/// Positions of a split: 256, or more where a context would have more than 32 of them.
pub(crate) fn attention_split(n_ctx: usize) -> usize {
    n_ctx.div_ceil(32).next_multiple_of(256)
}

/// Logits of a row that a workgroup looks at to choose a token: 8 workgroups for a vocabulary of 32,000, 64 for 262,144.
pub(crate) const SLICE: usize = 4096;

/// Invocations of a kernel whose invocations have nothing to do with one another.
pub(crate) const ELEMENTWISE: usize = 64;

/// Invocations that rank the experts of a row; those with 32 to 128 experts are all that there are.
pub(crate) const ROUTE: usize = 64;

/// Invocations that sort a step's uses of experts.
pub(crate) const SORT: usize = 128;

/// Invocations of a matmul workgroup; each makes a tile of 4 × 6.
///
/// Q4_1 [1536, 576] · 144 rows, lavapipe 26.2 / 22.3, 10⁹ products per second of CPU time, by tile (weight rows × rows of x):
/// 2 × 6 20.5 / 10.5, 2 × 8 21 / 11, 2 × 12 24 / 11.5, 4 × 3 20 / 9, 4 × 4 21 / 10, 4 × 6 23 / 13. With x through workgroup
/// memory 6 to 10 / –, with x loaded by each invocation 12 / –: there the driver checks each number's bounds.
pub(crate) const MATMUL: usize = 16;

/// Invocations of a matmul through workgroup memory, in tiles of 64 × WG / 2.
///
/// Both tiles take 16 KiB, which every device has. Q4_1, compilers of Mesa 26.2, 128 / 64: Apple G13 768 / 768 threads of 1024,
/// RDNA2 and 3 occupancy 8 / 6, Turing 20 / 20 warps of 32, Adreno 740 4 / 4; no spills, and half the dequantization for 128.
pub(crate) const MATMUL_TILED: usize = 128;

/// The same for rows that use one expert, of which there are fewer.
pub(crate) const EXPERTS_TILED: usize = 64;

fn subgroup(caps: &Capabilities) -> usize {
    caps.subgroup.map_or(1, |size| size as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_have_something_to_do() {
        let found: Vec<usize> = [1, 2, 18, 20, 28, 48, 64, 128, 344].iter().map(|&n| lanes(n, 32)).collect();
        assert_eq!(found, [1, 1, 8, 8, 8, 16, 32, 32, 32]);
    }
}
