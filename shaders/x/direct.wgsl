//! direct — each invocation reads all of x that it needs.
//!
//! exports  X       a group of x, yet to be read
//!          x_at    the group that begins at vec4 `at`
//!          x_0 … x_7, x_group
//!                  four of its numbers; all
//! x        [T, K]  f32
//! import   group

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [T, K / 4]

struct X { at: u32 }

fn x_at(at: u32, i: u32) -> X {
    return X(at);
}

fn x_0(v: X) -> vec4<f32> { return x[v.at + 0u]; }
fn x_1(v: X) -> vec4<f32> { return x[v.at + 1u]; }
fn x_2(v: X) -> vec4<f32> { return x[v.at + 2u]; }
fn x_3(v: X) -> vec4<f32> { return x[v.at + 3u]; }
fn x_4(v: X) -> vec4<f32> { return x[v.at + 4u]; }
fn x_5(v: X) -> vec4<f32> { return x[v.at + 5u]; }
fn x_6(v: X) -> vec4<f32> { return x[v.at + 6u]; }
fn x_7(v: X) -> vec4<f32> { return x[v.at + 7u]; }

fn x_group(v: X) -> Group {
    return Group(x_0(v), x_1(v), x_2(v), x_3(v), x_4(v), x_5(v), x_6(v), x_7(v));
}
