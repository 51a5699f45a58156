//! Search for a scale and an offset, as `search` does it for scales.
//!
//! With an offset, fits have two unknowns. Blocks of Q4_1 and Q5_1 keep both as halves, those of Q2_K, Q4_K and Q5_K as
//! small integers for each sub-block.

use super::block::Half;
use super::round::{byte, min_max, nearest_within, reciprocal};
use super::search::{Effort, LEN, SIDE, Subs, importance, sums};

/// `w = scale · q - min`
#[derive(Clone, Copy, Default)]
struct Affine {
    scale: f32,
    min: f32,
}

impl Affine {
    /// Quants of `src`, of `0..=max_q`.
    #[inline(always)]
    fn quants<const N: usize>(self, src: &[f32; N], max_q: u8) -> [u8; N] {
        let mut quants = [0; N];
        for (q, number) in quants.iter_mut().zip(self.numbers(src, max_q)) {
            *q = byte(number);
        }
        quants
    }

    /// The same as numbers.
    #[inline(always)]
    fn numbers<const N: usize>(self, src: &[f32; N], max_q: u8) -> [f32; N] {
        let (per_scale, mut numbers) = (reciprocal(self.scale), [0.0; N]);
        for (number, w) in numbers.iter_mut().zip(src) {
            *number = nearest_within((w + self.min) * per_scale, 0.0, f32::from(max_q));
        }
        numbers
    }

    #[inline(always)]
    fn error<const N: usize>(self, src: &[f32; N], importance: &[f32; N], q: &[f32; N]) -> f32 {
        let [error] = sums(src, importance, q, |w, k, q| {
            let error = self.scale * q - self.min - w;
            [k * error * error]
        });
        error
    }
}

/// What offsets a format has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offsets {
    /// Any.
    Any,
    /// None that is negative, so that 0 is always representable, or nearly so.
    NotNegative,
}

impl Offsets {
    fn allow(self, min: f32) -> bool {
        self == Offsets::Any || min >= 0.0
    }
}

/// Quantizes a block with a scale and an offset of its own: `w = d · q + m`.
#[inline(always)]
pub(super) fn block<const N: usize>(src: &[f32; N], given: Option<&[f32; N]>, max_q: u8) -> (Half, Half, [u8; N]) {
    let (importance, effort) = importance(src, given);
    let fit = fit(src, &importance, max_q, Offsets::Any, effort);
    let (d, m) = (Half::from_f32(fit.scale), Half::from_f32(-fit.min));
    (d, m, Affine { scale: d.to_f32(), min: -m.to_f32() }.quants(src, max_q))
}

/// The best scale and offset for quants of `0..=max_q`.
#[inline(always)]
fn fit<const N: usize>(src: &[f32; N], importance: &[f32; N], max_q: u8, offsets: Offsets, effort: Effort) -> Affine {
    let (least, most) = min_max(src);
    let least = if offsets.allow(-least) { least } else { 0.0 };
    if most <= least || (most - least).is_nan() {
        return Affine { scale: 0.0, min: -least };
    }
    let range = Range { least, most, max_q, offsets };
    let mut best = Affine { scale: (most - least) / f32::from(max_q), min: -least };
    let mut gain = f32::NEG_INFINITY;
    let n = effort.sides * SIDE;
    for first in (0..n).step_by(SIDE) {
        let found = side_by_side(src, importance, range, first, n);
        if found.1 > gain {
            (best, gain) = found;
        }
    }
    // Neither new quants nor a new fit make an error larger.
    for _ in 0..effort.turns {
        let fit = least_squares(src, importance, &best.numbers(src, max_q), range);
        best = if fit.scale > 0.0 { fit } else { best };
    }
    best
}

/// Trial `i` of `n`: what is added to the number of steps between the least and the largest weight. Of eight trials one has the obvious
/// number, and one a step less: weights that lie on a grid of as many bits, or of one bit less, are met exactly.
#[inline(always)]
fn steps(i: f32, n: f32) -> f32 {
    i * (1.75 / (n - 1.0)) - 1.25
}

/// What scales and offsets are searched in.
#[derive(Clone, Copy)]
struct Range {
    least: f32,
    most: f32,
    max_q: u8,
    offsets: Offsets,
}

/// The best scale and offset for the quants of trials from `first` on, of `n_trials`, with one offset; and their [`Sums::gain`], enough to
/// say which is the best, and in f32 too rough to say how good it is.
#[inline(always)]
fn side_by_side<const N: usize>(
    src: &[f32; N],
    importance: &[f32; N],
    range: Range,
    first: usize,
    n_trials: usize,
) -> (Affine, f32) {
    let (first, n_trials) = (first as f32, n_trials as f32);
    let mut per_scale = [0.0; SIDE];
    for (i, per_scale) in per_scale.iter_mut().enumerate() {
        *per_scale = (f32::from(range.max_q) + steps(first + i as f32, n_trials)) / (range.most - range.least);
    }
    let [n, sum_x] = sums(src, importance, src, |w, k, _| [k, k * (w - range.least)]);
    let (mut sum_q, mut sum_qq, mut sum_qx) = ([0.0; SIDE], [0.0; SIDE], [0.0; SIDE]);
    for (&w, k) in src.iter().zip(importance) {
        let x = w - range.least;
        for i in 0..SIDE {
            let q = nearest_within(x * per_scale[i], 0.0, f32::from(range.max_q));
            sum_q[i] += k * q;
            sum_qq[i] += k * q * q;
            sum_qx[i] += k * q * x;
        }
    }
    let mut gains = [0.0; SIDE];
    for i in 0..SIDE {
        let sums = Sums { n, q: sum_q[i], qq: sum_qq[i], x: sum_x, qx: sum_qx[i] };
        gains[i] = sums.gain(range);
    }
    let mut best = 0;
    for i in 1..SIDE {
        best = if gains[i] > gains[best] { i } else { best };
    }
    let sums = Sums { n, q: sum_q[best], qq: sum_qq[best], x: sum_x, qx: sum_qx[best] };
    (sums.solve(range), gains[best])
}

/// Minimizes `Σ importance · (scale · q - min - w)²`.
#[inline(always)]
fn least_squares<const N: usize>(src: &[f32; N], importance: &[f32; N], q: &[f32; N], range: Range) -> Affine {
    let terms = |w: f32, k, q| {
        let x = w - range.least;
        [k, k * q, k * q * q, k * x, k * q * x]
    };
    let [n, q, qq, x, qx] = sums(src, importance, q, terms);
    Sums { n, q, qq, x, qx }.solve(range)
}

/// Sums over weights, each times its importance: of 1, quants, their squares, `x = w - least`, and products of both. With x in place of
/// w nothing is lost where weights are large and alike.
#[derive(Clone, Copy)]
struct Sums {
    n: f32,
    q: f32,
    qq: f32,
    x: f32,
    qx: f32,
}

impl Sums {
    /// The fit without a limit on offsets, times [`Self::variance`].
    #[inline(always)]
    fn scale(self) -> f32 {
        self.n * self.qx - self.q * self.x
    }

    /// That of the quants; none where it would be what rounding has left.
    #[inline(always)]
    fn variance(self) -> f32 {
        let (squares, variance) = (self.n * self.qq, self.n * self.qq - self.q * self.q);
        if variance > 1e-5 * squares { variance } else { 0.0 }
    }

    /// The offset of the fit, times [`Self::variance`], and whether it is one that the format has.
    #[inline(always)]
    fn min(self, range: Range) -> (f32, bool) {
        let min = self.q * self.qx - self.qq * self.x - range.least * self.variance();
        (min, range.offsets.allow(min))
    }

    /// `Σ importance · q · w`
    #[inline(always)]
    fn qw(self, range: Range) -> f32 {
        self.qx + range.least * self.q
    }

    /// What the fit takes off the error beyond the best offset alone, times `n`.
    #[inline(always)]
    fn gain(self, range: Range) -> f32 {
        let with_offset = self.scale() * self.scale() / self.variance();
        let sum_w = self.x + range.least * self.n;
        let without = self.n * self.qw(range) * self.qw(range) / self.qq - sum_w * sum_w;
        // Selections: all of this is done for several trials side by side.
        let gain = if self.min(range).1 { with_offset } else { without };
        let gain = if self.scale() > 0.0 { gain } else { f32::NEG_INFINITY };
        if self.variance() > 0.0 { gain } else { f32::NEG_INFINITY }
    }

    #[inline(always)]
    fn solve(self, range: Range) -> Affine {
        if self.variance() <= 0.0 {
            return Affine::default();
        }
        match self.min(range) {
            (min, true) => Affine { scale: self.scale() / self.variance(), min: min / self.variance() },
            _ => Affine { scale: self.qw(range) / self.qq, min: 0.0 },
        }
    }
}

/// A super-block of `S` sub-blocks, whose scales are multiples of `d`, and their offsets of `dmin`.
pub(super) struct SuperBlock<const S: usize> {
    pub d: Half,
    pub scales: [u8; S],
    pub dmin: Half,
    pub mins: [u8; S],
    pub q: [u8; LEN],
    /// What is left of error.
    error: f32,
}

impl<const S: usize> SuperBlock<S> {
    #[inline(always)]
    fn sub(&self, i: usize) -> Affine {
        Affine { scale: self.d.to_f32() * f32::from(self.scales[i]), min: self.dmin.to_f32() * f32::from(self.mins[i]) }
    }
}

/// Quantizes `S` sub-blocks of `N`, each with a scale and an offset up to `max_scale`, to quants of `0..=max_q`.
#[inline(always)]
pub(super) fn super_block<const N: usize, const S: usize>(
    src: &[f32; LEN],
    given: Option<&[f32; LEN]>,
    max_q: u8,
    max_scale: u8,
) -> SuperBlock<S> {
    let (importance, effort) = importance(src, given);
    let subs = Subs::<N>::new(src, &importance);
    let mut fits = [Affine::default(); S];
    for (i, fit) in fits.iter_mut().enumerate() {
        *fit = self::fit(&subs.src[i], &subs.importance_of(i), max_q, Offsets::NotNegative, effort);
    }
    let step = |numbers: [f32; S]| numbers.into_iter().fold(0.0, f32::max) / f32::from(max_scale);
    let steps = [step(fits.map(|fit| fit.scale)), step(fits.map(|fit| fit.min))];
    let mut best = integer_scales(subs, &fits, steps, max_q, max_scale);
    for _ in 0..effort.turns {
        let next = integer_scales(subs, &fits, scales_of_scales(subs, &best), max_q, max_scale);
        let is_better = next.error < best.error;
        if !is_better {
            break;
        }
        best = next;
    }
    best
}

/// With the multiples of `d` and `dmin` that leave the least error, of those around the fitted scales and offsets.
#[inline(always)]
fn integer_scales<const N: usize, const S: usize>(
    subs: Subs<'_, N>,
    fits: &[Affine; S],
    [d, dmin]: [f32; 2],
    max_q: u8,
    max_scale: u8,
) -> SuperBlock<S> {
    let (d, dmin) = (Half::from_f32(d), Half::from_f32(dmin));
    let mut found = SuperBlock { d, scales: [0; S], dmin, mins: [0; S], q: [0; LEN], error: 0.0 };
    let around = |x: f32, step: Half| {
        let nearest = (x * reciprocal(step.to_f32())).round() as u8;
        [nearest, nearest.saturating_sub(1), nearest.saturating_add(1)].map(|scale| scale.min(max_scale))
    };
    for (i, fit) in fits.iter().enumerate() {
        let importance = subs.importance_of(i);
        let mut least = f32::INFINITY;
        for scale in around(fit.scale, d) {
            for min in around(fit.min, dmin) {
                let sub = Affine { scale: d.to_f32() * f32::from(scale), min: dmin.to_f32() * f32::from(min) };
                let error = sub.error(&subs.src[i], &importance, &sub.numbers(&subs.src[i], max_q));
                if error < least {
                    (found.scales[i], found.mins[i], least) = (scale, min, error);
                }
            }
        }
        found.error += least;
        found.q.as_chunks_mut::<N>().0[i] = found.sub(i).quants(&subs.src[i], max_q);
    }
    found
}

/// The best `d` and `dmin` for the quants that there are now.
#[inline(always)]
fn scales_of_scales<const N: usize, const S: usize>(subs: Subs<'_, N>, now: &SuperBlock<S>) -> [f32; 2] {
    // w = d · q - dmin · m
    let (mut sum_qq, mut sum_qm, mut sum_mm, mut sum_wq, mut sum_wm) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (i, q) in now.q.as_chunks::<N>().0.iter().enumerate() {
        let (scale, m) = (f32::from(now.scales[i]), f32::from(now.mins[i]));
        let terms = |w, k, q| [k * q * q, k * q, k, k * w * q, k * w];
        let q = q.map(f32::from);
        let [qq, sum_q, n, wq, sum_w] = sums(&subs.src[i], &subs.importance_of(i), &q, terms);
        sum_qq += scale * scale * qq;
        sum_qm += scale * m * sum_q;
        sum_mm += m * m * n;
        sum_wq += scale * wq;
        sum_wm += m * sum_w;
    }
    let determinant = sum_qq * sum_mm - sum_qm * sum_qm;
    if determinant <= 0.0 {
        return [sum_wq * reciprocal(sum_qq), 0.0];
    }
    let d = (sum_wq * sum_mm - sum_wm * sum_qm) / determinant;
    let dmin = (sum_wq * sum_qm - sum_wm * sum_qq) / determinant;
    [d, dmin]
}
