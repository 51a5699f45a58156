//! Windows as steps of a program: rows one window after the other, as many in a step as the program takes.
//!
//! The last token of a window is never run, since nothing behind it is scored. A window has pages of its own while it is run; the
//! window that comes into its place writes every position before it reads it, so that nothing has to be cleared.

use std::ops::Range;

use super::windows::{Windows, check_n_ctx};
use crate::backend::{Limits, Output, PAGE_LEN, Program, Row, Step, Want};
use crate::engine::EngineOptions;
use crate::error::Result;

/// Rows in a step: enough for matrix products to be as fast as they get.
const MAX_ROWS: usize = 1024;

/// `options` with what is needed to run windows of `n_ctx` tokens fast.
///
/// # Errors
/// If windows of so many tokens make no sense.
pub fn engine_options(n_ctx: usize, options: EngineOptions) -> Result<EngineOptions> {
    check_n_ctx(n_ctx)?;
    // Short windows share a step, which begins in the middle of one and ends in the middle of another; a long one has steps of its own.
    let max_sessions = if n_ctx < MAX_ROWS { MAX_ROWS / n_ctx + 1 } else { 1 };
    Ok(EngineOptions { n_ctx: Some(n_ctx), max_sessions, max_rows: MAX_ROWS, max_outputs: MAX_ROWS, ..options })
}

/// A step's worth of rows.
pub(super) struct Part {
    pub(super) rows: Vec<Row>,
    /// Indices of rows whose logits are wanted.
    pub(super) outputs: Vec<u32>,
    /// Which of the scored tokens of all windows these are about.
    pub(super) scored: Range<usize>,
}

/// Cuts windows into steps.
pub(super) struct Steps<'a> {
    windows: &'a Windows,
    limits: Limits,
    /// For each window that can be under way at a time.
    pages: Vec<Vec<u32>>,
    /// The next row: window and position.
    next: (usize, usize),
    n_scored: usize,
}

impl<'a> Steps<'a> {
    /// The steps for a program with these limits, which has room for a window.
    pub(super) fn new(windows: &'a Windows, limits: Limits) -> Self {
        let pages_each = windows.n_ctx().div_ceil(PAGE_LEN);
        let n_places = limits.max_seqs.min(limits.n_pages / pages_each);
        assert!(limits.n_ctx >= windows.n_ctx() && n_places > 0, "a program for windows of {}", windows.n_ctx());
        let pages_of = |place: usize| (place * pages_each..(place + 1) * pages_each).map(|page| page as u32).collect();
        Self { windows, limits, pages: (0..n_places).map(pages_of).collect(), next: (0, 0), n_scored: 0 }
    }

    /// Runs `part` on `program` and gives the logits of its outputs, `[N, V]`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn run(&self, program: &mut dyn Program, part: &Part) -> Result<Vec<f32>> {
        let pages: Vec<&[u32]> = self.pages.iter().map(Vec::as_slice).collect();
        let want = if part.outputs.is_empty() { Want::Nothing } else { Want::Logits };
        match program.run(&Step { rows: &part.rows, pages: &pages, outputs: &part.outputs, want })? {
            Output::Logits(logits) => Ok(logits),
            _ => Ok(Vec::new()),
        }
    }

    /// The next rows; `None` at the end.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        let first_window = self.next.0;
        let mut part = Part { rows: Vec::new(), outputs: Vec::new(), scored: self.n_scored..self.n_scored };
        loop {
            let (window, pos) = self.next;
            let is_over = window == self.windows.len() || window == first_window + self.pages.len();
            let wanted = pos >= self.windows.first_output();
            let is_full =
                part.rows.len() == self.limits.max_rows || wanted && part.outputs.len() == self.limits.max_outputs;
            if is_over || is_full {
                break;
            }
            if wanted {
                part.outputs.push(part.rows.len() as u32);
                part.scored.end += 1;
            }
            let seq = (window % self.pages.len()) as u32;
            part.rows.push(Row { token: self.windows.input(window, pos), pos: pos as u32, seq });
            self.next = if pos + 2 < self.windows.n_ctx() { (window, pos + 1) } else { (window + 1, 0) };
        }
        self.n_scored = part.scored.end;
        (!part.rows.is_empty()).then_some(part)
    }
}

/// `f` of 0 .. `n`, by `n_threads` threads.
///
/// # Errors
/// The first that `f` gave.
pub(super) fn in_parallel<T: Send>(
    n: usize,
    n_threads: usize,
    f: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let each = n.div_ceil(n_threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let f = &f;
        let ranges = (0..n).step_by(each).map(|start| start..n.min(start + each));
        let threads: Vec<_> =
            ranges.map(|range| scope.spawn(move || range.map(f).collect::<Result<Vec<T>>>())).collect();
        let mut all = Vec::with_capacity(n);
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// The smaller of each, for a step that runs on two programs.
pub(super) fn common_limits(a: Limits, b: Limits) -> Limits {
    Limits {
        max_rows: a.max_rows.min(b.max_rows),
        max_outputs: a.max_outputs.min(b.max_outputs),
        max_seqs: a.max_seqs.min(b.max_seqs),
        n_ctx: a.n_ctx.min(b.n_ctx),
        n_pages: a.n_pages.min(b.n_pages),
    }
}
