//! How much work goes into one submission, so that none runs so long that a watchdog kills it.
//!
//! Systems end what keeps a GPU busy for too long: some after seconds, macOS after a few hundred milliseconds if somebody is
//! moving a window. How fast a device is shows only when it works. So the first steps are cut into small submissions, and
//! then into those that the measured speed allows; a step for one token is one submission on all but the slowest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::device::Capabilities;

/// What a submission should take at most.
const BUDGET: Duration = Duration::from_millis(80);
/// The same for a software adapter, which no watchdog looks after. The fewer rows of a prompt run at once, the fewer share an
/// expert's matrix.
const SOFTWARE_BUDGET: Duration = Duration::from_secs(2);
/// Multiply-adds a second of a device that nobody has measured: the slowest that anybody would use.
const UNKNOWN_SPEED: f64 = 2e9;
/// Up to this many rows, weights are read faster than they are multiplied with more rows: a speed of its own.
const FEW_ROWS: usize = 8;
/// Rows are cut in multiples of this, which is one of every tile: a row's tile has the same rows, cut or not.
pub(crate) const ROWS: usize = 32;

/// What a submission should take at most on such a device.
pub(crate) fn budget(caps: &Capabilities) -> Duration {
    if caps.software { SOFTWARE_BUDGET } else { BUDGET }
}

/// The speed of a device, as seconds per multiply-add, for steps of few rows and of many.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    seconds: [f64; 2],
    budget: f64,
}

impl Pace {
    pub(crate) fn new(budget: Duration) -> Self {
        Self { seconds: [1.0 / UNKNOWN_SPEED; 2], budget: budget.as_secs_f64() }
    }

    /// Multiply-adds that fit a submission of a step with `n` rows.
    pub(crate) fn room(&self, n: usize) -> u64 {
        (self.budget / self.seconds[usize::from(n > FEW_ROWS)]) as u64
    }

    /// How many of `n` rows to run at once, where the largest call does `largest` multiply-adds a row: all, or a multiple of
    /// [`ROWS`] that leaves no rest of `few` rows or fewer, for which other kernels with other roundings would run.
    pub(crate) fn rows(&self, n: usize, largest: u64, few: usize) -> usize {
        let fit = (self.room(n) / largest.max(1)) as usize / ROWS * ROWS;
        let most = fit.max(ROWS);
        if n <= most + few { n } else { most }
    }

    /// Learns from a step of `n` rows. One measurement counts so much and no more: a device that was busy with something
    /// else, or compiled a kernel, is not slow for that.
    pub(crate) fn measured(&mut self, n: usize, ops: u64, took: Duration) {
        let seconds = &mut self.seconds[usize::from(n > FEW_ROWS)];
        *seconds = (took.as_secs_f64() / ops.max(1) as f64).clamp(*seconds / 8.0, *seconds * 2.0);
    }
}

/// Steps under way: since when, how many rows, how many multiply-adds.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    steps: VecDeque<(Instant, usize, u64)>,
    last_end: Option<Instant>,
}

impl Flights {
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(crate) fn begin(&mut self, at: Instant, n_rows: usize, ops: u64) {
        self.steps.push_back((at, n_rows, ops));
    }

    /// Ends the oldest step: its rows, its multiply-adds, and how long it took, of which nothing belongs to the step before.
    pub(crate) fn end(&mut self, at: Instant) -> Option<(usize, u64, Duration)> {
        let (begin, n_rows, ops) = self.steps.pop_front()?;
        let begin = self.last_end.replace(at).map_or(begin, |last| last.max(begin));
        Some((n_rows, ops, at - begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: u64 = 200_000_000;

    #[test]
    fn submissions_grow_with_the_speed_that_was_measured() {
        let mut pace = Pace::new(BUDGET);
        assert!(pace.room(1) < LAYER, "an unknown device gets little");
        for _ in 0..8 {
            // 7e9 multiply-adds in 50 ms.
            pace.measured(1, 7_000_000_000, Duration::from_millis(50));
        }
        assert!(pace.room(1) > 7_000_000_000, "a token is one submission");
        assert!(pace.room(512) < LAYER, "which says nothing about prompts");
        let before = pace.room(1);
        pace.measured(1, 7_000_000_000, Duration::from_secs(60));
        assert!((before / 2 - 1..=before / 2 + 1).contains(&pace.room(1)), "one hiccup halves");
    }

    #[test]
    fn a_step_is_not_charged_for_the_one_before() {
        let (mut flights, start) = (Flights::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        flights.begin(at(0), 1, 10);
        flights.begin(at(1), 1, 20);
        assert_eq!(flights.end(at(5)), Some((1, 10, Duration::from_millis(5))));
        assert_eq!(flights.end(at(9)), Some((1, 20, Duration::from_millis(4))));
        flights.begin(at(20), 3, 30);
        assert_eq!(flights.end(at(21)), Some((3, 30, Duration::from_millis(1))));
        assert!(flights.is_empty() && flights.end(at(22)).is_none());
    }

    #[test]
    fn rows_are_cut_into_tiles_without_a_small_rest() {
        let mut pace = Pace::new(BUDGET);
        assert_eq!(pace.rows(512, LAYER, 8), 32);
        assert_eq!(pace.rows(40, LAYER, 8), 40, "a rest of 8 rows stays with the others");
        assert_eq!(pace.rows(41, LAYER, 8), 32);
        assert_eq!([63, 64].map(|n| pace.rows(n, LAYER, 31)), [63, 32], "a rest of 31, where these are few");
        for _ in 0..8 {
            pace.measured(512, 100 * LAYER, Duration::from_millis(20));
        }
        // 400 multiply-adds of a layer fit.
        assert_eq!(pace.rows(512, LAYER, 8), 384);
        assert_eq!(pace.rows(512, LAYER / 2, 8), 512);
    }
}
