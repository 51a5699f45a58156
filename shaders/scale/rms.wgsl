//! rms — x has the gain of an RMSNorm already; its factor 1 / √(mean(h²) + eps) is applied to the results.
//!
//! squares  [parts]  f32, sums of h² by the workgroups of the kernel that made h
//! exports  scale_part   an invocation's part of what the factor is made of
//!          scale_of     the factor on the results, from the sum of the parts of a team
//! const    EPS;  LANES  of the kernel
//! import   shape
//! tail     numbers beyond `parts` in the last four are not used

override EPS: f32;

@group(0) @binding(6) var<storage, read> squares: array<vec4<f32>>; // [ceil(parts / 4)]

fn scale_part(lane: u32) -> f32 {
    var sum = vec4<f32>();
    for (var p = lane * 4u; p < shape.parts; p += 4u * LANES) {
        let there = vec4<u32>(p, p + 1u, p + 2u, p + 3u) < vec4<u32>(shape.parts);
        sum += select(vec4<f32>(), squares[p / 4u], there);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

fn scale_of(parts: f32) -> f32 {
    return inverseSqrt(parts / f32(32u * shape.groups) + EPS);
}
