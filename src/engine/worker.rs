//! The thread that owns the program and runs steps for all sessions together.
//!
//! A step takes the next rows of every session that has any: first the single rows of those that are decoding, so that
//! nobody waits for another's long prompt, then prompts, in chunks. So eight users decode in one step.
//!
//! Nothing here waits for a reader. Each generation has a bounded channel to its stream: while that is full, its rows are
//! left out of steps; when the stream is dropped, it is over. A reader that makes room wakes this thread through the
//! same inbox that commands come through, which is the only thing it ever waits for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use super::generation::{Generation, Request};
use super::pages::PagePool;
use super::sequence::Sequence;
use crate::backend::{Limits, Output, Program, Row, Step, Want};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What the worker can be told.
pub(super) enum Command {
    /// Generate for a session, in place of what it generates now.
    Generate(u64, Box<Request>),
    /// Forget a session.
    Close(u64),
    /// There is room again in a channel.
    Poke,
    /// End the thread.
    Stop,
}

/// What everybody may know of the worker.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// Why it gave up, if it did.
    pub(super) failure: OnceLock<Arc<Error>>,
    /// Whether its thread has ended.
    pub(super) ended: AtomicBool,
}

impl Status {
    /// Why a stream ended in the middle: the failure, or a panic; `None` if the worker is well.
    pub(super) fn error(&self) -> Option<Error> {
        let failed = self.failure.get().map(|error| Error::EngineFailed { source: error.clone() });
        failed.or_else(|| self.ended.load(Ordering::Acquire).then_some(Error::EngineEnded))
    }

    /// Notes the end of the thread when dropped, also by a panic.
    pub(super) fn note_end(self: &Arc<Self>) -> impl Drop + use<> {
        struct Note(Arc<Status>);
        impl Drop for Note {
            fn drop(&mut self) {
                self.0.ended.store(true, Ordering::Release);
            }
        }
        Note(self.clone())
    }
}

/// A session: its tokens, and what is being generated for it.
#[derive(Default)]
struct Slot {
    sequence: Sequence,
    generation: Option<Generation>,
    /// The last step that had rows of it.
    served: u64,
    /// Whether its channel has room.
    ready: bool,
}

pub(super) struct Worker {
    program: Box<dyn Program>,
    tokenizer: Arc<dyn Tokenizer>,
    limits: Limits,
    pool: PagePool,
    slots: BTreeMap<u64, Slot>,
    n_steps: u64,
    inbox: Receiver<Command>,
    waker: Waker,
}

/// Wakes the worker by a command.
struct Bell(Sender<Command>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Without a worker nobody needs to wake up.
        let _ = self.0.send(Command::Poke);
    }
}

impl Worker {
    pub(super) fn new(
        program: Box<dyn Program>,
        tokenizer: Arc<dyn Tokenizer>,
        inbox: Receiver<Command>,
        bell: Sender<Command>,
    ) -> Self {
        let limits = program.limits();
        Self {
            program,
            tokenizer,
            limits,
            pool: PagePool::new(limits.n_pages),
            slots: BTreeMap::new(),
            n_steps: 0,
            inbox,
            waker: Waker::from(Arc::new(Bell(bell))),
        }
    }

    /// Works until told to stop, until the program fails, or until something panics, and notes the end in `status`
    /// before any stream can see it.
    pub(super) fn run(self, status: &Arc<Status>) {
        // Locals are dropped last to first: the note is made before the worker lets go of its streams.
        let mut worker = self;
        let _note = status.note_end();
        if let Err(error) = worker.work() {
            status.failure.set(Arc::new(error)).expect("a worker fails once");
        }
    }

    fn work(&mut self) -> Result<()> {
        loop {
            let busy = self.poll_readers();
            let command = if busy { self.inbox.try_recv().ok() } else { self.inbox.recv().ok() };
            match command {
                None if busy => self.step()?,
                None | Some(Command::Stop) => return Ok(()),
                Some(command) => self.obey(command),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate(session, request) => {
                let slot = self.slots.entry(session).or_default();
                let n_reused = slot.sequence.set(request.prompt.clone(), &mut self.pool);
                slot.generation = Some(Generation::new(*request, n_reused, self.tokenizer.clone()));
            }
            Command::Close(session) => {
                if let Some(mut slot) = self.slots.remove(&session) {
                    slot.sequence.clear(&mut self.pool);
                }
            }
            Command::Poke | Command::Stop => {}
        }
    }

    /// Finds out who has room for another token, and who has gone. Returns whether there is anything to do.
    fn poll_readers(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        for slot in self.slots.values_mut() {
            let Some(generation) = &mut slot.generation else { continue };
            let poll = generation.poll_ready(&mut context);
            slot.ready = poll.is_ready();
            if let Poll::Ready(Err(_)) = poll {
                slot.generation = None;
            }
        }
        self.slots.values().any(Slot::can_run)
    }

    /// Runs one step for all that can run.
    fn step(&mut self) -> Result<()> {
        self.n_steps += 1;
        let mut shares = share_out(self.slots.values_mut().filter(|slot| slot.can_run()), &self.limits);
        let (mut rows, mut outputs) = (Vec::new(), Vec::new());
        for (seq, share) in shares.iter_mut().enumerate() {
            let sequence = &mut share.slot.sequence;
            // There are as many pages as all sequences can fill.
            assert!(sequence.reserve(share.n_rows, &mut self.pool), "the KV cache ran out of pages");
            let first = sequence.n_cached();
            let tokens = &sequence.tokens()[first..first + share.n_rows];
            rows.extend(tokens.iter().zip(first as u32..).map(|(&token, pos)| Row { token, pos, seq: seq as u32 }));
            outputs.extend(share.ends.then(|| rows.len() as u32 - 1));
        }
        let pages: Vec<&[u32]> = shares.iter().map(|share| share.slot.sequence.pages()).collect();
        let argmax = shares.iter().filter(|share| share.ends).all(|share| share.slot.is_argmax());
        let want = match (outputs.is_empty(), argmax) {
            (true, _) => Want::Nothing,
            (_, true) => Want::Argmax,
            _ => Want::Logits,
        };
        let output = self.program.run(&Step { rows: &rows, pages: &pages, outputs: &outputs, want })?;
        let n_vocab = self.program.graph().n_vocab;
        for share in &mut shares {
            share.slot.served = self.n_steps;
            share.slot.sequence.advance(share.n_rows, &mut self.pool);
        }
        for (i, share) in shares.iter_mut().filter(|share| share.ends).enumerate() {
            let result = match &output {
                Output::Argmax(ids) => Chosen::Id(ids[i]),
                Output::Logits(logits) => Chosen::By(&logits[i * n_vocab..(i + 1) * n_vocab]),
                Output::Nothing => unreachable!("the step had outputs"),
            };
            share.slot.deliver(result, &self.limits);
        }
        Ok(())
    }
}

/// What a step says about the next token.
enum Chosen<'a> {
    Id(u32),
    By(&'a [f32]),
}

impl Slot {
    fn can_run(&self) -> bool {
        self.ready && self.generation.is_some()
    }

    fn is_argmax(&self) -> bool {
        self.generation.as_ref().is_some_and(Generation::is_argmax)
    }

    /// Adds a token to the sequence and hands it to the stream.
    fn deliver(&mut self, chosen: Chosen<'_>, limits: &Limits) {
        let Some(generation) = &mut self.generation else { return };
        let id = match chosen {
            Chosen::Id(id) => Some(id),
            Chosen::By(logits) => generation.sample(logits),
        };
        if let Some(id) = id {
            self.sequence.push(id);
        }
        let room = limits.n_ctx - self.sequence.tokens().len();
        if generation.send(id, room).is_break() {
            self.generation = None;
        }
    }
}

/// What a slot gets of a step.
struct Share<'a> {
    slot: &'a mut Slot,
    n_rows: usize,
    /// Whether its last row is the sequence's last, so that its logits are wanted.
    ends: bool,
}

/// Deals out the rows of a step: decodes before prompts, and among equals who waited longest.
fn share_out<'a>(slots: impl Iterator<Item = &'a mut Slot>, limits: &Limits) -> Vec<Share<'a>> {
    let mut slots: Vec<&mut Slot> = slots.collect();
    slots.sort_by_key(|slot| (slot.sequence.n_pending() > 1, slot.served));
    let (mut rows_left, mut outputs_left) = (limits.max_rows, limits.max_outputs);
    let mut shares = Vec::new();
    for slot in slots {
        if shares.len() == limits.max_seqs {
            break;
        }
        let n_pending = slot.sequence.n_pending();
        // Without an output left, all but the last row can run.
        let n_rows = rows_left.min(n_pending - usize::from(outputs_left == 0));
        if n_rows == 0 {
            continue;
        }
        let ends = n_rows == n_pending;
        rows_left -= n_rows;
        outputs_left -= usize::from(ends);
        shares.push(Share { slot, n_rows, ends });
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
        share_out(slots.iter_mut(), limits).iter().map(|s| (s.slot.served, s.n_rows, s.ends)).collect()
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
