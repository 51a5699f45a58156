//! What the next products read first is fetched while threads wait for each other.
//!
//! Between the products of a step threads wait some microseconds for each other and for what one of them does alone, and
//! memory would rest, though which weights come next is known. So a thread that waits asks for those that it will begin
//! with, line by line into its second-level cache, and looks for the next job in between.

use std::ops::Range;

use super::simd;
use super::simd::vector::LINE_BYTES;

/// What is fetched for a thread, at most: a part of a second-level cache, and more than memory gives while a thread waits.
pub(super) const MOST: usize = 128 * 1024;
/// Lines between two looks for the next job.
const LINES: usize = 4;

/// For each group of ops what each thread reads first in the next group that has products.
#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<Vec<Vec<Range<usize>>>>);

impl Ahead {
    /// `first` says for each group what each thread reads first, as addresses; nothing where a group has no products.
    pub(super) fn new(first: Vec<Vec<Vec<Range<usize>>>>) -> Self {
        let n = first.len();
        let next = |g: usize| (g + 1..g + n).map(|next| &first[next % n]).find(|next| !next.is_empty());
        Self((0..n).map(|g| next(g).cloned().unwrap_or_default()).collect())
    }

    /// What a thread is to fetch when its part of group g is done, if that is one.
    pub(super) fn of(&self, g: Option<usize>, thread: usize) -> Fetch<'_> {
        let ranges = g.and_then(|g| self.0.get(g)).and_then(|threads| threads.get(thread));
        Fetch { ranges: ranges.map_or(&[], Vec::as_slice), at: 0, left: MOST }
    }
}

/// What is left to be fetched.
#[derive(Debug, Default)]
pub(super) struct Fetch<'a> {
    ranges: &'a [Range<usize>],
    /// Within the first range.
    at: usize,
    left: usize,
}

impl Fetch<'_> {
    /// Asks for some lines more.
    #[inline]
    pub(super) fn some(&mut self) {
        for _ in 0..LINES {
            let Some(range) = self.ranges.first() else { return };
            if self.left == 0 {
                return;
            }
            simd::prefetch_far(range.start + self.at);
            self.at += LINE_BYTES;
            self.left = self.left.saturating_sub(LINE_BYTES);
            if self.at >= range.len() {
                (self.ranges, self.at) = (&self.ranges[1..], 0);
            }
        }
    }
}
