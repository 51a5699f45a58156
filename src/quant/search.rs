//! Search for scales and offsets: rounding to the nearest step of the obvious scale is not the best that a block can do.
//!
//! All formats minimize `Σ importance · (stored weight - weight)²`. Several scales near the obvious one are tried. Each gives
//! quants, and for fixed quants the best scale (and offset) is a least-squares fit in closed form; the trial with the smallest
//! error wins, and quants and fit are then improved by turns. Where scales are stored as small integers, the neighbours of
//! the nearest ones are tried with the quants that each would have, and the scale of the scales is fitted again.

use super::block::Half;
use super::round::{furthest_from_zero, reciprocal, truncate};

/// Weights in a super-block.
pub(super) const LEN: usize = 256;
/// How far the obvious scale is varied, to both sides, and how often.
pub(super) const TRIALS: std::ops::RangeInclusive<i8> = -20..=20;
/// The distance of two trials: what it makes of the largest weight, as a part of a step from number to number.
pub(super) const TRIAL_STEP: f32 = 0.1;
/// How often quants and scales are improved by turns, at most.
pub(super) const TURNS: usize = 8;

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
}

/// The whole numbers from `-N` to `N - 1`; their quants are `N` larger.
#[derive(Clone, Copy)]
pub(super) struct Signed<const N: u8>;

impl<const N: u8> Grid for Signed<N> {
    const ENDS: [f32; 2] = [-(N as f32), N as f32 - 1.0];
    const SPACING: f32 = 1.0;

    #[inline(always)]
    fn nearest(self, x: f32) -> u8 {
        truncate(x + (f32::from(N) + 0.5), 2 * N - 1)
    }

    #[inline(always)]
    fn number(self, q: u8) -> f32 {
        f32::from(q) - f32::from(N)
    }
}

/// How much an error of each weight counts. Where nothing is said, or nothing counts, all are alike.
pub(super) fn importance<const N: usize>(given: Option<&[f32; N]>) -> [f32; N] {
    given.copied().filter(|given| given.iter().any(|&k| k > 0.0)).unwrap_or([1.0; N])
}

/// Quants of `src` for a scale.
#[inline(always)]
pub(super) fn quants<G: Grid, const N: usize>(grid: G, src: &[f32; N], scale: f32) -> [u8; N] {
    let per_scale = reciprocal(scale);
    src.map(|w| grid.nearest(w * per_scale))
}

/// What these quants would leave of error.
#[inline(always)]
pub(super) fn error<G: Grid, const N: usize>(grid: G, src: &[f32; N], importance: &[f32; N], scale: f32) -> f32 {
    let per_scale = reciprocal(scale);
    let square = |w: f32| (scale * grid.number(grid.nearest(w * per_scale)) - w).powi(2);
    src.iter().zip(importance).map(|(&w, &k)| k * square(w)).sum()
}

/// Quantizes a block with a scale of its own.
pub(super) fn block<G: Grid, const N: usize>(grid: G, src: &[f32; N], given: Option<&[f32; N]>) -> (Half, [u8; N]) {
    let d = Half::from_f32(fit(grid, src, &importance(given)));
    (d, quants(grid, src, d.to_f32()))
}

/// A scale, and how much less the error is than without any.
#[derive(Clone, Copy, Default)]
struct Scale {
    scale: f32,
    gain: f32,
}

/// The best scale, of either sign.
fn fit<G: Grid, const N: usize>(grid: G, src: &[f32; N], importance: &[f32; N]) -> f32 {
    let furthest = furthest_from_zero(src);
    let mut best = Scale::default();
    if furthest == 0.0 {
        return best.scale;
    }
    for end in G::ENDS {
        for trial in TRIALS {
            let steps = end + TRIAL_STEP * G::SPACING * f32::from(trial);
            let found = least_squares(grid, src, importance, steps / furthest);
            best = if found.gain > best.gain { found } else { best };
        }
    }
    for _ in 0..TURNS {
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
    let (mut sum_wq, mut sum_qq) = (0.0, 0.0);
    for (&w, &k) in src.iter().zip(importance) {
        let q = grid.number(grid.nearest(w * per_scale));
        sum_wq += k * w * q;
        sum_qq += k * q * q;
    }
    Scale { scale: sum_wq / sum_qq, gain: sum_wq * sum_wq / sum_qq }
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
pub(super) fn super_block<G: Grid, const N: usize, const S: usize>(
    grid: G,
    src: &[f32; LEN],
    given: Option<&[f32; LEN]>,
    lowest: i8,
) -> SuperBlock<S> {
    let importance = importance(given);
    let subs = Subs::<N>::new(src, &importance);
    let fits: [f32; S] = std::array::from_fn(|i| fit(grid, &subs.src[i], &subs.importance_of(i)));
    // The scale of the largest magnitude becomes the end of the range that is further from zero.
    let d = Half::from_f32(furthest_from_zero(&fits) / f32::from(lowest));
    let mut best = subs.integer_scales(grid, &fits, d, lowest);
    for _ in 0..TURNS {
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
    pub(super) fn new(src: &'a [f32; LEN], importance: &'a [f32; LEN]) -> Self {
        Self { src: src.as_chunks().0, importance: importance.as_chunks().0 }
    }

    /// As [`importance`]: some sub-block may have none.
    pub(super) fn importance_of(&self, i: usize) -> [f32; N] {
        importance(Some(&self.importance[i]))
    }

    /// With the multiples of `d` that leave the least error, of those around the fitted scales.
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
    fn scale_of_scales<G: Grid, const S: usize>(&self, grid: G, now: &SuperBlock<S>) -> f32 {
        let (mut sum_wq, mut sum_qq) = (0.0, 0.0);
        for (i, (&scale, q)) in now.scales.iter().zip(now.q.as_chunks::<N>().0).enumerate() {
            for ((&w, &k), &q) in self.src[i].iter().zip(&self.importance_of(i)).zip(q) {
                let q = f32::from(scale) * grid.number(q);
                sum_wq += k * w * q;
                sum_qq += k * q * q;
            }
        }
        sum_wq * reciprocal(sum_qq)
    }
}
