//! Workgroup sizes and lane counts, with their evidence: the only place where a number was chosen by measuring.
//!
//! A software adapter has no coalescing to care for and pays for barriers, so there an invocation works alone; on
//! hardware neighbouring lanes read neighbouring memory.

use super::device::Capabilities;

/// Invocations that share four rows of a matvec, and invocations in its workgroup; `n_groups` is K / 32.
pub(crate) fn matvec(caps: &Capabilities, n_groups: usize) -> (usize, usize) {
    if caps.software {
        // Lane by lane (Mesa 26.2's lavapipe, Q4_1, K 576): 1 lane 2.5, 2 lanes 1.8, 8 lanes 1.1 G weights/s.
        return (1, 32);
    }
    // Two groups a lane at least; a team lies within one subgroup where there are any.
    let widest = caps.subgroup.map_or(32, |size| size as usize).min(32);
    let lanes = (n_groups / 2).max(1).next_power_of_two();
    (lanes.min(widest), 64)
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
pub(crate) fn attention(caps: &Capabilities, head_dim: usize) -> (usize, usize) {
    let least = if caps.software { 32 } else { 128 };
    let wg = (head_dim / 4).next_power_of_two().max(least).max(subgroup(caps));
    (wg, wg)
}

/// The same for tiles of rows.
pub(crate) fn attention_tile(caps: &Capabilities, head_dim: usize) -> (usize, usize) {
    let least = if caps.software { 32 } else { 64 };
    let wg = (head_dim / 4).next_power_of_two().max(least).max(subgroup(caps));
    (wg, wg)
}

/// Rows of a tile, of which `heads` query heads are taken together.
pub(crate) fn attention_rows(_caps: &Capabilities, heads: usize, head_dim: usize) -> usize {
    let queries = if head_dim > 128 { 8 } else { 12 };
    (queries / heads).max(1)
}

/// Positions of a split.
pub(crate) fn attention_split(_caps: &Capabilities, n_ctx: usize) -> usize {
    n_ctx.div_ceil(32).next_multiple_of(256)
}

/// Logits of a row that a workgroup looks at to choose a token: 8 workgroups for a vocabulary of 32,000, 64 for 262,144.
pub(crate) const SLICE: usize = 4096;

/// Invocations of a kernel whose invocations have nothing to do with one another.
pub(crate) const ELEMENTWISE: usize = 64;

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

fn subgroup(caps: &Capabilities) -> usize {
    caps.subgroup.map_or(1, |size| size as usize)
}
