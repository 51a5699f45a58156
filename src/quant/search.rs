//! Search for scales and offsets: rounding to the nearest step of the obvious scale is not the best that a block can do.
//!
//! All formats minimize `Σ importance · (stored weight - weight)²`. Where nobody has measured what counts, errors of large weights
//! count somewhat more, which costs little of the plain error and keeps models of 4 bits nearer to themselves. Several scales near the obvious one
//! are tried. Each gives quants, and for fixed quants the best scale (and offset) is a least-squares fit in closed form; the trial with the smallest
//! error wins, and quants and fit are then improved by turns. Where scales are stored as small integers, the neighbours of
//! the nearest ones are tried with the quants that each would have, and the scale of the scales is fitted again.

use super::block::Half;
use super::round::{across, byte, furthest_from_zero, nearest_within, reciprocal};

/// Weights in a super-block.
pub(super) const LEN: usize = 256;
/// Trials that are made side by side, as vectors have them.
pub(super) const SIDE: usize = 8;

/// How long is searched.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// How often the obvious scale is varied, times [`SIDE`].
    pub sides: usize,
    /// How often quants and scales are improved by turns, at most.
    pub turns: usize,
}

impl Effort {
    /// Errors are within half a percent of those of eighty trials.
    const USUAL: Self = Self { sides: 1, turns: 1 };
    /// Who has measured what counts has more patience.
    const WEIGHTED: Self = Self { sides: 4, turns: 4 };
}

/// Trial `i` of `n`: what is added to the number of steps between zero and the largest weight, 1.2 steps up for the largest weight, and
/// half as far down.
#[inline(always)]
fn trial(i: usize, n: usize) -> f32 {
    i as f32 * (1.8 / (n - 1) as f32) - 1.2
}

/// Numbers that quants stand for, in units of a scale.
pub(super) trait Grid: Copy {
    /// The least and the largest.
    const ENDS: [f32; 2];
    /// From one to the next, more or less.
    const SPACING: f32;

    /// The quant whose number is nearest to `x`; any for NaN.
    fn nearest(self, x: f32) -> u8;

    /// What quant `q` stands for.
    fn number(self, q: u8) -> f32;

    /// The number that is nearest to `x`, in steps that vectors can take.
    #[inline(always)]
    fn snap(self, x: f32) -> f32 {
        self.number(self.nearest(x))
    }
}

/// The whole numbers from `-N` to `N - 1`; their quants are `N` larger.
#[derive(Clone, Copy)]
pub(super) struct Signed<const N: u8>;

impl<const N: u8> Grid for Signed<N> {
    const ENDS: [f32; 2] = [-(N as f32), N as f32 - 1.0];
    const SPACING: f32 = 1.0;

    #[inline(always)]
    fn nearest(self, x: f32) -> u8 {
        byte(self.snap(x) + f32::from(N))
    }

    #[inline(always)]
    fn number(self, q: u8) -> f32 {
        f32::from(q) - f32::from(N)
    }

    #[inline(always)]
    fn snap(self, x: f32) -> f32 {
        nearest_within(x, Self::ENDS[0], Self::ENDS[1])
    }
}

/// How much an error of each weight counts, and how long it is searched for the least. Importances are relative to the one that
/// counts most, so that sums neither vanish nor overflow. Where nothing is said, or all count alike, the weights' own sizes say it.
#[inline(always)]
pub(super) fn importance<const N: usize>(src: &[f32; N], given: Option<&[f32; N]>) -> ([f32; N], Effort) {
    let mut importance = [1.0; N];
    if let Some(given) = given.filter(|given| given.iter().any(|&k| k != given[0])) {
        let most = given.iter().copied().fold(0.0, f32::max);
        if most > 0.0 && most.is_finite() {
            for (k, given) in importance.iter_mut().zip(given) {
                *k = given / most;
            }
            return (importance, Effort::WEIGHTED);
        }
    }
    let per_furthest = reciprocal(furthest_from_zero(src).abs());
    if per_furthest > 0.0 && per_furthest.is_finite() {
        let [sum_ww] = sums(src, &importance, src, |w, _, _| [(w * per_furthest) * (w * per_furthest)]);
        let twice_mean = 2.0 * sum_ww / N as f32;
        for (k, w) in importance.iter_mut().zip(src) {
            *k = ((w * per_furthest) * (w * per_furthest) + twice_mean).sqrt();
        }
    }
    (importance, Effort::USUAL)
}

/// Sums of `S` terms for each weight, which are given the weight, its importance and the number from `q`. Eight sums side by
/// side, as vectors have them, and added up in one order: the same bits on every machine.
#[inline(always)]
pub(super) fn sums<const S: usize, const N: usize>(
    src: &[f32; N],
    importance: &[f32; N],
    q: &[f32; N],
    terms: impl Fn(f32, f32, f32) -> [f32; S],
) -> [f32; S] {
    let mut lanes = [[0.0; 8]; S];
    let eights = src.as_chunks::<8>().0.iter().zip(importance.as_chunks::<8>().0).zip(q.as_chunks::<8>().0);
    for ((src, importance), q) in eights {
        for i in 0..8 {
            let terms = terms(src[i], importance[i], q[i]);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[i] += term;
            }
        }
    }
    lanes.map(|lanes| across(lanes, |a, b| a + b))
}

/// Numbers of the grid that are nearest to `src` in units of a scale.
#[inline(always)]
fn numbers<G: Grid, const N: usize>(grid: G, src: &[f32; N], per_scale: f32) -> [f32; N] {
    let mut numbers = [0.0; N];
    for (number, w) in numbers.iter_mut().zip(src) {
        *number = grid.snap(w * per_scale);
    }
    numbers
}

/// Quants of `src` for a scale.
#[inline(always)]
pub(super) fn quants<G: Grid, const N: usize>(grid: G, src: &[f32; N], scale: f32) -> [u8; N] {
    let (per_scale, mut quants) = (reciprocal(scale), [0; N]);
    // Loops, here and below: what `map` is given is not always compiled with the caller's instructions.
    for (q, w) in quants.iter_mut().zip(src) {
        *q = grid.nearest(w * per_scale);
    }
    quants
}

/// What these quants would leave of error.
#[inline(always)]
pub(super) fn error<G: Grid, const N: usize>(grid: G, src: &[f32; N], importance: &[f32; N], scale: f32) -> f32 {
    let numbers = numbers(grid, src, reciprocal(scale));
    let [error] = sums(src, importance, &numbers, |w, k, number| {
        let error = scale * number - w;
        [k * error * error]
    });
    error
}

/// Quantizes a block with a scale of its own.
#[inline(always)]
pub(super) fn block<G: Grid, const N: usize>(grid: G, src: &[f32; N], given: Option<&[f32; N]>) -> (Half, [u8; N]) {
    let (importance, effort) = importance(src, given);
    let d = Half::from_f32(fit(grid, src, &importance, effort));
    (d, quants(grid, src, d.to_f32()))
}

/// A scale, and how much less the error is than without any.
#[derive(Clone, Copy, Default)]
struct Scale {
    scale: f32,
    gain: f32,
}

/// The best scale, of either sign.
#[inline(always)]
fn fit<G: Grid, const N: usize>(grid: G, src: &[f32; N], importance: &[f32; N], effort: Effort) -> f32 {
    let furthest = furthest_from_zero(src);
    let mut best = Scale::default();
    if furthest == 0.0 {
        return best.scale;
    }
    // Half of the trials for each end of the grid.
    let n = effort.sides * SIDE / 2;
    for first in (0..n).step_by(SIDE / 2) {
        let mut per_scale = [0.0; SIDE];
        for (i, per_scale) in per_scale.iter_mut().enumerate() {
            let steps = G::ENDS[i / (SIDE / 2)] + G::SPACING * trial(first + i % (SIDE / 2), n);
            *per_scale = steps / furthest;
        }
        for found in side_by_side(grid, src, importance, &per_scale) {
            // Of equally good scales, but for rounding, the first: the obvious one, where it is exact.
            best = if found.gain > 1.000_001 * best.gain { found } else { best };
        }
    }
    for _ in 0..effort.turns {
        let found = least_squares(grid, src, importance, reciprocal(best.scale));
        let is_better = found.gain > best.gain;
        if !is_better {
            break;
        }
        best = found;
    }
    best.scale
}

/// The best scale for the quants that `per_scale` gives: `Σkwq / Σkqq`, which takes `(Σkwq)² / Σkqq` off the error.
#[inline(always)]
fn least_squares<G: Grid, const N: usize>(grid: G, src: &[f32; N], importance: &[f32; N], per_scale: f32) -> Scale {
    let numbers = numbers(grid, src, per_scale);
    let [sum_wq, sum_qq] = sums(src, importance, &numbers, |w, k, q| [k * w * q, k * q * q]);
    let scale = sum_wq / sum_qq;
    Scale { scale, gain: scale * sum_wq }
}

/// [`least_squares`] of several trials: no sum goes across a vector.
#[inline(always)]
fn side_by_side<G: Grid, const N: usize>(
    grid: G,
    src: &[f32; N],
    importance: &[f32; N],
    per_scale: &[f32; SIDE],
) -> [Scale; SIDE] {
    // Of even and of odd weights, so that additions need not wait for each other.
    let (mut sum_wq, mut sum_qq) = ([[0.0; SIDE]; 2], [[0.0; SIDE]; 2]);
    for (src, importance) in src.as_chunks::<2>().0.iter().zip(importance.as_chunks::<2>().0) {
        for odd in 0..2 {
            let (w, k) = (src[odd], importance[odd]);
            for i in 0..SIDE {
                let q = grid.snap(w * per_scale[i]);
                sum_wq[odd][i] += k * w * q;
                sum_qq[odd][i] += k * q * q;
            }
        }
    }
    let mut found = [Scale::default(); SIDE];
    for (i, found) in found.iter_mut().enumerate() {
        let sum_wq = sum_wq[0][i] + sum_wq[1][i];
        let scale = sum_wq / (sum_qq[0][i] + sum_qq[1][i]);
        *found = Scale { scale, gain: scale * sum_wq };
    }
    found
}

/// A super-block of `S` sub-blocks, whose scales are multiples of `d`.
pub(super) struct SuperBlock<const S: usize> {
    pub d: Half,
    pub scales: [i8; S],
    pub q: [u8; LEN],
    /// What is left of error.
    error: f32,
}

/// Quantizes `S` sub-blocks of `N`, each with a signed scale from `lowest` to `-lowest - 1`.
#[inline(always)]
pub(super) fn super_block<G: Grid, const N: usize, const S: usize>(
    grid: G,
    src: &[f32; LEN],
    given: Option<&[f32; LEN]>,
    lowest: i8,
) -> SuperBlock<S> {
    let (importance, effort) = importance(src, given);
    let subs = Subs::<N>::new(src, &importance);
    let mut fits = [0.0; S];
    for (i, fit) in fits.iter_mut().enumerate() {
        *fit = self::fit(grid, &subs.src[i], &subs.importance_of(i), effort);
    }
    // The scale of the largest magnitude becomes the end of the range that is further from zero.
    let d = Half::from_f32(furthest_from_zero(&fits) / f32::from(lowest));
    let mut best = subs.integer_scales(grid, &fits, d, lowest);
    for _ in 0..effort.turns {
        let d = Half::from_f32(subs.scale_of_scales(grid, &best));
        let next = subs.integer_scales(grid, &fits, d, lowest);
        let is_better = next.error < best.error;
        if !is_better {
            break;
        }
        best = next;
    }
    best
}

/// The sub-blocks of a super-block.
#[derive(Clone, Copy)]
pub(super) struct Subs<'a, const N: usize> {
    pub src: &'a [[f32; N]],
    importance: &'a [[f32; N]],
}

impl<'a, const N: usize> Subs<'a, N> {
    #[inline(always)]
    pub(super) fn new(src: &'a [f32; LEN], importance: &'a [f32; LEN]) -> Self {
        Self { src: src.as_chunks().0, importance: importance.as_chunks().0 }
    }

    /// The importance of sub-block i; where nothing in it counts, all are alike, and next to nothing beside others.
    #[inline(always)]
    pub(super) fn importance_of(&self, i: usize) -> [f32; N] {
        if self.importance[i].iter().any(|&k| k > 0.0) { self.importance[i] } else { [1e-9; N] }
    }

    /// With the multiples of `d` that leave the least error, of those around the fitted scales.
    #[inline(always)]
    fn integer_scales<G: Grid, const S: usize>(&self, grid: G, fits: &[f32; S], d: Half, lowest: i8) -> SuperBlock<S> {
        let mut found = SuperBlock { d, scales: [0; S], q: [0; LEN], error: 0.0 };
        let q = found.q.as_chunks_mut::<N>().0.iter_mut();
        for (((i, fit), scale), q) in fits.iter().enumerate().zip(&mut found.scales).zip(q) {
            let d = d.to_f32();
            let error = |scale: i8| error(grid, &self.src[i], &self.importance_of(i), d * f32::from(scale));
            let nearest = (fit * reciprocal(d)).round() as i8;
            let around = [nearest, nearest.saturating_sub(1), nearest.saturating_add(1)];
            let around = around.map(|scale| scale.clamp(lowest, -1 - lowest)).map(|scale| (scale, error(scale)));
            let best = around.into_iter().fold(around[0], |best, next| if next.1 < best.1 { next } else { best });
            *scale = best.0;
            *q = quants(grid, &self.src[i], d * f32::from(best.0));
            found.error += best.1;
        }
        found
    }

    /// The best scale of the scales for the quants that they have now.
    #[inline(always)]
    fn scale_of_scales<G: Grid, const S: usize>(&self, grid: G, now: &SuperBlock<S>) -> f32 {
        let (mut sum_wq, mut sum_qq) = (0.0, 0.0);
        for (i, &scale) in now.scales.iter().enumerate() {
            let scale = f32::from(scale);
            let numbers = numbers(grid, &self.src[i], reciprocal(now.d.to_f32() * scale));
            let [wq, qq] = sums(&self.src[i], &self.importance_of(i), &numbers, |w, k, q| [k * w * q, k * q * q]);
            sum_wq += scale * wq;
            sum_qq += scale * scale * qq;
        }
        sum_wq * reciprocal(sum_qq)
    }
}

#[cfg(test)]
mod tests {
    use super::{Grid, Signed};
    use crate::quant::iq4_nl::Numbers;

    fn check<G: Grid>(grid: G, n_quants: u8) {
        let [least, most] = G::ENDS.map(|end| end as i32);
        let fine = (16 * least..=16 * most).map(|i| i as f32 / 8.0);
        for x in fine.chain([f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, f32::NAN]) {
            let found = grid.number(grid.nearest(x));
            assert_eq!(grid.snap(x), found, "{x}");
            let distance = |number: f32| (number - x).abs();
            let is_nearest = (0..n_quants).all(|q| distance(found) <= distance(grid.number(q)));
            assert!(is_nearest || x.is_nan(), "{x} became {found}");
        }
    }

    #[test]
    fn the_nearest_number_is_found() {
        check(Signed::<4>, 8);
        check(Signed::<32>, 64);
        check(Numbers, 16);
    }
}
