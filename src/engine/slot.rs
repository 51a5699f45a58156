//! A session as the worker has it: what is known of its tokens, what is under way, and its share of a step.

use super::generation::Generation;
use super::pages::PagePool;
use super::sequence::Sequence;
use crate::backend::{CHOSEN, Limits};

/// A session: its tokens, and what is being generated for it.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) sequence: Sequence,
    pub(super) generation: Option<Generation>,
    /// The last step that had rows of it.
    pub(super) served: u64,
    /// Whether its channel has room.
    pub(super) ready: bool,
    /// Rows that were submitted and are not finished, and the tokens that will come of them.
    pub(super) n_ahead: usize,
    pub(super) n_awaited: usize,
    /// The output row of the last step that will be its next token, where the device knows it before the host does.
    pub(super) chosen: Option<u32>,
}

/// What a step says about the next token.
pub(super) enum Chosen<'a> {
    Id(Option<u32>),
    By(&'a [f32]),
}

impl Slot {
    /// Whether a step is to come that has rows of it, now or after what is under way.
    pub(super) fn wants_step(&self, n_ctx: usize) -> bool {
        let goes_on = |g: &Generation| g.goes_on_after(self.n_awaited);
        self.ready
            && self.sequence.tokens().len() + self.n_awaited < n_ctx
            && self.generation.as_ref().is_some_and(goes_on)
    }

    /// Tokens that are known and have not been submitted.
    fn n_known(&self) -> usize {
        self.sequence.n_pending().saturating_sub(self.n_ahead)
    }

    /// Rows that can be submitted.
    pub(super) fn n_ready(&self) -> usize {
        match self.n_known() {
            0 => usize::from(self.chosen.is_some()),
            n => n,
        }
    }

    /// Owns pages for the next `n` rows.
    pub(super) fn reserve(&mut self, n: usize, pool: &mut PagePool) -> bool {
        self.sequence.reserve(self.n_ahead + n, pool)
    }

    /// The tokens of the next `n` rows, and the position of the first.
    pub(super) fn next_tokens(&self, n: usize) -> (u32, impl Iterator<Item = u32>) {
        let first = self.sequence.n_cached() + self.n_ahead;
        let known = self.sequence.tokens().get(first..).unwrap_or_default().iter().copied();
        (first as u32, known.chain(self.chosen.map(|i| CHOSEN + i)).take(n))
    }

    /// Says that `n_rows` have run. Those whose tokens never became known are no part of the sequence.
    pub(super) fn note_finished(&mut self, n_rows: usize, pool: &mut PagePool) {
        self.n_ahead -= n_rows;
        self.sequence.advance(n_rows.min(self.sequence.n_pending()), pool);
    }

    /// Adds a token to the sequence and hands it to the stream.
    pub(super) fn deliver(&mut self, chosen: Chosen<'_>, limits: &Limits) {
        self.n_awaited -= 1;
        let Some(generation) = self.generation.as_mut().filter(|g| g.goes_on_after(0)) else { return };
        let id = match chosen {
            Chosen::Id(id) => id,
            Chosen::By(logits) => generation.sample(logits),
        };
        if let Some(id) = id {
            self.sequence.push(id);
        }
        generation.send(id, limits.n_ctx - self.sequence.tokens().len());
    }
}

/// What a slot gets of a step.
pub(super) struct Share<'a> {
    pub(super) session: u64,
    pub(super) slot: &'a mut Slot,
    pub(super) n_rows: usize,
    /// Whether its last row is the sequence's last, so that its logits are wanted.
    pub(super) ends: bool,
}

/// Deals out the rows of a step: decodes before prompts, and among equals who waited longest.
pub(super) fn share_out<'a>(slots: impl Iterator<Item = (u64, &'a mut Slot)>, limits: &Limits) -> Vec<Share<'a>> {
    let mut slots: Vec<(u64, &mut Slot)> = slots.collect();
    slots.sort_by_key(|(_, slot)| (slot.n_ready() > 1, slot.served));
    let (mut rows_left, mut outputs_left) = (limits.max_rows, limits.max_outputs);
    let mut shares = Vec::new();
    for (session, slot) in slots {
        if shares.len() == limits.max_seqs {
            break;
        }
        let n_ready = slot.n_ready();
        // Without an output left, all but the last row can run.
        let n_rows = rows_left.min(n_ready - usize::from(outputs_left == 0));
        if n_rows == 0 {
            continue;
        }
        let ends = n_rows == n_ready;
        rows_left -= n_rows;
        outputs_left -= usize::from(ends);
        shares.push(Share { session, slot, n_rows, ends });
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_rows: 8, max_outputs: 2, max_seqs: 4, n_ctx: 64, n_pages: 8 };

    /// Slots with so many tokens to run, and the step that served them last.
    fn shares(slots: &[(u32, u64)], limits: &Limits) -> Vec<(u64, usize, bool)> {
        let mut pool = PagePool::new(8);
        let mut slots: Vec<Slot> = slots
            .iter()
            .map(|&(n, served)| {
                let mut slot = Slot { served, ..Slot::default() };
                slot.sequence.set((0..n).collect(), &mut pool);
                slot
            })
            .collect();
        share_out((0..).zip(slots.iter_mut()), limits).iter().map(|s| (s.slot.served, s.n_rows, s.ends)).collect()
    }

    #[test]
    fn decodes_come_before_prompts() {
        assert_eq!(
            shares(&[(20, 1), (1, 2), (1, 3)], &Limits { max_outputs: 4, ..LIMITS }),
            [(2, 1, true), (3, 1, true), (1, 6, false)]
        );
    }

    #[test]
    fn who_waited_longest_is_first() {
        assert_eq!(shares(&[(1, 7), (1, 5), (1, 6)], &LIMITS), [(5, 1, true), (6, 1, true)]);
        assert_eq!(shares(&[(20, 7), (20, 5)], &LIMITS), [(5, 8, false)]);
    }

    #[test]
    fn a_prompt_without_an_output_left_runs_up_to_its_last_row() {
        assert_eq!(shares(&[(1, 1), (1, 2), (4, 3)], &LIMITS), [(1, 1, true), (2, 1, true), (3, 3, false)]);
    }

    #[test]
    fn a_step_has_so_many_sequences() {
        let limits = Limits { max_seqs: 1, ..LIMITS };
        assert_eq!(shares(&[(1, 1), (1, 2)], &limits), [(1, 1, true)]);
    }
}
