//! matmul_coop16 — y = x·Wᵀ for many rows, W quantized, by cooperative matrices of 16 × 16.
//!
//! W       [M, K]  packed blocks of `quant`, row-major
//! x       [T, K]  f32
//! y       [T, M]  f32, by `epilogue`
//! grid    (ceil(M / 64), ceil(T / 64)) workgroups
//! group   a tile of 64 × 64 is four blocks of 32 × 32; a subgroup makes one at a time, as 2 × 2 matrices
//! const   WG  four of the device's smallest subgroups
//! import  group, shape, quant, epilogue, halves
//! tail    as `halves`; results of rows that do not exist are dropped
//! exact   f16 operands, f32 sums: nmse ≤ 2e-7
//! cpu     src/backend/cpu/ops/matmul.rs

enable f16;
enable wgpu_cooperative_matrix;

const SIDE = 16u;
const TILE_T = 64u;
const X_LEN = 4096u;
const STRIP_LEN = 1024u;

var<workgroup> subgroups: u32;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) n_subgroups: u32,
) {
    let tile = Tile(id.x * TILE_M, id.y * TILE_T, step[shape.section]);
    if i == 0u {
        subgroups = n_subgroups;
    }
    let count = workgroupUniformLoad(&subgroups);
    halves_scales(tile, i);

    // A device whose subgroups vary in size may have made fewer than four: then they go round again.
    for (var first = 0u; first < 4u; first += count) {
        // 1. sums begin at zero; of more than four subgroups some do the same
        for (var u = i; u < SIDE * SIDE; u += WG) {
            strip[u] = 0.0;
        }
        workgroupBarrier();
        let block = (first + subgroup) % 4u;
        let w0 = block % 2u * 512u;
        let x0 = block / 2u * 512u;
        var c00 = coopLoad<coop_mat16x16<f32, C>>(&strip[0], 16u);
        var c10 = coopLoad<coop_mat16x16<f32, C>>(&strip[0], 16u);
        var c01 = coopLoad<coop_mat16x16<f32, C>>(&strip[0], 16u);
        var c11 = coopLoad<coop_mat16x16<f32, C>>(&strip[0], 16u);

        // 2. two groups of K at a time
        for (var g = 0u; g < shape.groups; g += 2u) {
            workgroupBarrier();
            halves_fill(tile, g, i);
            workgroupBarrier();
            for (var k = 0u; k < STEP / SIDE; k++) {
                let w = w0 + k * (TILE_M * SIDE);
                let v = x0 + k * (TILE_T * SIDE);
                let a0 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[w], 16u);
                let a1 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[w + 256u], 16u);
                let b0 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[v], 16u);
                let b1 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[v + 256u], 16u);
                c00 = coopMultiplyAdd(a0, b0, c00);
                c10 = coopMultiplyAdd(a1, b0, c10);
                c01 = coopMultiplyAdd(a0, b1, c01);
                c11 = coopMultiplyAdd(a1, b1, c11);
            }
        }

        // 3. one matrix of each block at a time becomes a strip, [block][column][row]
        for (var part = 0u; part < 4u; part++) {
            workgroupBarrier();
            // naga 30 wants the arguments of coopStore to be evaluated before.
            let at = block * (SIDE * SIDE);
            switch part {
                case 0u: { coopStore(c00, &strip[at], 16u); }
                case 1u: { coopStore(c10, &strip[at], 16u); }
                case 2u: { coopStore(c01, &strip[at], 16u); }
                default: { coopStore(c11, &strip[at], 16u); }
            }
            workgroupBarrier();
            for (var u = i; u < 2u * SIDE * SIDE; u += WG) {
                let b = u / 128u;
                // Blocks of this round only.
                if b - first < count {
                    let r = b % 2u * 32u + part % 2u * SIDE + u % 8u * 2u;
                    let c = b / 2u * 32u + part / 2u * SIDE + u / 8u % SIDE;
                    halves_finish(tile, r, c, vec2<f32>(strip[2u * u], strip[2u * u + 1u]));
                }
            }
        }
        workgroupBarrier();
    }
}
