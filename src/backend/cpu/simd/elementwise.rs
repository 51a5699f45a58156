//! What a row takes besides products and attention, for slices of numbers.

use super::Isa;
use super::math::{sigmoid, tanh};
use super::vector::{Kernel, Vector};
use crate::graph::Activation;

/// Calls `$each` with vectors of `$from`, and with what is left, and stores what it gives in `$to`.
macro_rules! each {
    ($v:ident, $to:expr, [$($from:ident),+], |$($x:ident),+| $each:expr) => {{
        let len = $to.len();
        $(assert_eq!($from.len(), len, "slices of different lengths");)+
        for i in (0..len).step_by($v::LEN) {
            let n = $v::LEN.min(len - i);
            // SAFETY: n numbers are there, and the processor has the instruction set.
            unsafe {
                let load = |from: &[f32]| {
                    if n == $v::LEN { $v::load(from.as_ptr().add(i)) } else { $v::load_first(from.as_ptr().add(i), n) }
                };
                $(let $x = load($from);)+
                let y = $each;
                let to = $to.as_mut_ptr().add(i);
                if n == $v::LEN { y.store(to) } else { y.store_first(to, n) }
            }
        }
    }};
}

/// out = act(gate) · up, number by number.
pub(in crate::backend::cpu) fn gated(isa: Isa, act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    isa.run(Gated { act, gate, up, out });
}

struct Gated<'a> {
    act: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { act, gate, up, out } = self;
        match act {
            Activation::Silu => each!(V, out, [gate, up], |x, up| x.mul(sigmoid(x)).mul(up)),
            Activation::Gelu => each!(V, out, [gate, up], |x, up| {
                // (1 + tanh u) / 2 = sigmoid 2u, u = √(2/π) (x + 0.044715 x³)
                let twice_c = V::splat(1.595_769);
                let u = x.mul_add(x.mul(V::splat(0.044715)), x.mul(x)).mul(twice_c);
                x.mul(sigmoid(u)).mul(up)
            }),
            Activation::SwigluOai => each!(V, out, [gate, up], |x, up| {
                let bound = V::splat(7.0);
                let (x, up) = (x.min(bound), up.min(bound).max(V::splat(-7.0)));
                x.mul(sigmoid(x.mul(V::splat(1.702)))).mul(up.add(V::splat(1.0)))
            }),
        }
    }
}

/// out = a + b, number by number.
pub(in crate::backend::cpu) fn add(isa: Isa, a: &[f32], b: &[f32], out: &mut [f32]) {
    isa.run(Add { a, b, out });
}

struct Add<'a> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { a, b, out } = self;
        each!(V, out, [a, b], |a, b| a.add(b));
    }
}

/// out = cap · tanh(x / cap), number by number.
pub(in crate::backend::cpu) fn softcap(isa: Isa, cap: f32, x: &[f32], out: &mut [f32]) {
    isa.run(Softcap { cap, x, out });
}

struct Softcap<'a> {
    cap: f32,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { cap, x, out } = self;
        each!(V, out, [x], |x| V::splat(cap).mul(tanh(x.div(V::splat(cap)))));
    }
}

/// out = x / √(mean(x²) + eps) · weight, over each run of `weight.len()` numbers.
pub(in crate::backend::cpu) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    isa.run(RmsNorm { x, weight, eps, out });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { x, weight, eps, out } = self;
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            // SAFETY: the numbers are there, and the processor has the instruction set.
            let sum = unsafe {
                let mut sums = [V::splat(0.0); 2];
                for i in (0..n).step_by(V::LEN) {
                    let here = V::LEN.min(n - i);
                    let x = V::load_first(x.as_ptr().add(i), here);
                    let sum = &mut sums[i / V::LEN % 2];
                    *sum = sum.mul_add(x, x);
                }
                sums[0].add(sums[1]).sum()
            };
            let scale = 1.0 / (sum / n as f32 + eps).sqrt();
            each!(V, out, [x, weight], |x, w| x.mul(V::splat(scale)).mul(w));
        }
    }
}
