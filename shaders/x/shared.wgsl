//! shared — eight invocations that need the same numbers read four each and hand them round.
//!
//! exports  X       a group of x, of which each invocation holds four numbers
//!          x_at    the group that begins at vec4 `at`, for the invocation `i` of its workgroup
//!          x_0 … x_7, x_group
//!                  four of its numbers; all
//! x        [T, K]  f32
//! import   group
//! note     subgroups have 8 invocations; all of them call this, with the same `at`

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]

struct X { mine: vec4<f32> }

fn x_at(at: u32, i: u32) -> X {
    return X(x[at + i % 8u]);
}

fn x_0(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 0u); }
fn x_1(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 1u); }
fn x_2(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 2u); }
fn x_3(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 3u); }
fn x_4(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 4u); }
fn x_5(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 5u); }
fn x_6(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 6u); }
fn x_7(v: X) -> vec4<f32> { return subgroupBroadcast(v.mine, 7u); }

fn x_group(v: X) -> Group {
    return Group(x_0(v), x_1(v), x_2(v), x_3(v), x_4(v), x_5(v), x_6(v), x_7(v));
}
