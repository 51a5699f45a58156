//! The thread that owns the program and runs steps for all sessions together.
//!
//! A step takes the next rows of every session that has any: first the single rows of those that are decoding, so that
//! nobody waits for another's long prompt, then prompts, in chunks. So eight users decode in one step.
//!
//! Nothing here waits for a reader. Each generation has a bounded channel to its stream: while that is full, its rows are
//! left out of steps; when the stream is dropped, it is over. A reader that makes room wakes this thread through the
//! same inbox that commands come through, which besides the device is the only thing it ever waits for.
//!
//! Where the device chooses tokens by itself, the next step is submitted before the token that it starts from is known,
//! so that the device has always something to do. What turns out to lie behind the end of an answer is dropped: a
//! sequence counts only positions whose tokens it knows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use super::generation::{Generation, Request};
use super::pages::PagePool;
use super::slot::{Chosen, Share, Slot, share_out};
use crate::backend::{Draw, Limits, Output, Profile, Program, Row, Step, Ticket, Want};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What the worker can be told.
pub(super) enum Command {
    /// Generate for a session, in place of what it generates now.
    Generate(u64, Box<Request>),
    /// Forget a session.
    Close(u64),
    /// Say where time went.
    Profile(Sender<Option<Profile>>),
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

/// A step that was submitted.
struct Flight {
    ticket: Ticket,
    /// Session and rows, in the order of the step, and whether the last row brings a token.
    shares: Vec<(u64, usize, bool)>,
    wants_logits: bool,
}

pub(super) struct Worker {
    program: Box<dyn Program>,
    tokenizer: Arc<dyn Tokenizer>,
    limits: Limits,
    pool: PagePool,
    slots: BTreeMap<u64, Slot>,
    /// Steps that are not finished, oldest first.
    flights: VecDeque<Flight>,
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
            flights: VecDeque::new(),
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
            self.poll_readers();
            let busy = !self.flights.is_empty() || self.can_submit();
            let command = if busy { self.inbox.try_recv().ok() } else { self.inbox.recv().ok() };
            match command {
                None if self.can_submit() => self.submit()?,
                None if busy => self.finish()?,
                None | Some(Command::Stop) => return Ok(()),
                Some(Command::Poke) => {}
                Some(command) => self.obey(command)?,
            }
        }
    }

    /// Changes what sequences are, once no step is under way that has rows of them.
    fn obey(&mut self, command: Command) -> Result<()> {
        while !self.flights.is_empty() {
            self.finish()?;
        }
        match command {
            Command::Generate(session, request) => {
                let slot = self.slots.entry(session).or_default();
                let n_reused = slot.sequence.set(request.prompt.clone(), &mut self.pool);
                slot.generation = Some(Generation::new(*request, n_reused, self.tokenizer.clone()));
                slot.chosen = None;
            }
            Command::Close(session) => {
                if let Some(mut slot) = self.slots.remove(&session) {
                    slot.sequence.clear(&mut self.pool);
                }
            }
            // Who asked may have gone.
            Command::Profile(sender) => drop(sender.send(self.program.profile())),
            Command::Poke | Command::Stop => {}
        }
        Ok(())
    }

    /// Hands on tokens, and finds out who has room for another one, and who has gone.
    fn poll_readers(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        for slot in self.slots.values_mut() {
            let Some(generation) = &mut slot.generation else { continue };
            let poll = generation.poll_ready(&mut context);
            slot.ready = poll.is_ready();
            if let Poll::Ready(Err(_)) = poll {
                slot.generation = None;
            }
        }
    }

    /// Whether there is a step to submit now. Nobody runs ahead of one who could have rows in the same step a moment later: weights
    /// are read once for all.
    fn can_submit(&self) -> bool {
        let n_ctx = self.limits.n_ctx;
        let mut wanting = self.slots.values().filter(|slot| slot.wants_step(n_ctx)).peekable();
        let has_place = self.flights.len() < self.program.max_in_flight();
        let logits_are_under_way = self.flights.back().is_some_and(|flight| flight.wants_logits);
        has_place && !logits_are_under_way && wanting.peek().is_some() && wanting.all(|slot| slot.n_ready() > 0)
    }

    /// Submits one step for all that can run.
    fn submit(&mut self) -> Result<()> {
        self.n_steps += 1;
        let n_ctx = self.limits.n_ctx;
        let wanting = self.slots.iter_mut().filter(|(_, slot)| slot.wants_step(n_ctx));
        let mut shares = share_out(wanting.map(|(&session, slot)| (session, slot)), &self.limits);
        let (mut rows, mut outputs) = (Vec::new(), Vec::new());
        for (seq, share) in shares.iter_mut().enumerate() {
            // There are as many pages as all sequences can fill.
            assert!(share.slot.reserve(share.n_rows, &mut self.pool), "the KV cache ran out of pages");
            let (first, tokens) = share.slot.next_tokens(share.n_rows);
            rows.extend(tokens.zip(first..).map(|(token, pos)| Row { token, pos, seq: seq as u32 }));
            outputs.extend(share.ends.then(|| rows.len() as u32 - 1));
        }
        let mut ending: Vec<&mut Slot> = shares.iter_mut().filter(|s| s.ends).map(|s| &mut *s.slot).collect();
        let mut draws = Vec::new();
        let want = want(&mut ending, &mut draws);
        let pages: Vec<&[u32]> = shares.iter().map(|share| share.slot.sequence.pages()).collect();
        let is_read = |slot: &Slot| slot.generation.as_ref().is_some_and(Generation::is_read);
        let is_wanted = || shares.iter().any(|share| is_read(share.slot));
        let step = Step { rows: &rows, pages: &pages, outputs: &outputs, want };
        // Without a reader the sequences are as they were: those that have gone are found out before the next step.
        let Some(ticket) = self.program.submit_while(&step, &is_wanted)? else { return Ok(()) };
        let wants_logits = want == Want::Logits;
        let of = |share: &Share<'_>| (share.session, share.n_rows, share.ends);
        let shares: Vec<(u64, usize, bool)> = shares.iter().map(of).collect();
        self.note_submitted(&shares, wants_logits);
        self.flights.push_back(Flight { ticket, shares, wants_logits });
        Ok(())
    }

    /// Keeps account of what is under way.
    fn note_submitted(&mut self, shares: &[(u64, usize, bool)], wants_logits: bool) {
        if shares.iter().any(|&(_, _, ends)| ends) {
            // The device keeps the tokens of one step.
            self.slots.values_mut().for_each(|slot| slot.chosen = None);
        }
        let mut output = 0;
        for &(session, n_rows, ends) in shares {
            let slot = self.slots.get_mut(&session).expect("sessions are closed between steps");
            slot.served = self.n_steps;
            slot.n_ahead += n_rows;
            if ends {
                slot.n_awaited += 1;
                slot.chosen = (!wants_logits).then_some(output);
                output += 1;
            }
        }
    }

    /// Waits for the oldest step, and deals out what it brought.
    fn finish(&mut self) -> Result<()> {
        let Some(Flight { ticket, shares, .. }) = self.flights.pop_front() else { return Ok(()) };
        let output = self.program.finish(ticket)?;
        let n_vocab = self.program.graph().n_vocab;
        let mut i = 0;
        for (session, n_rows, ends) in shares {
            let slot = self.slots.get_mut(&session).expect("sessions are closed between steps");
            slot.note_finished(n_rows, &mut self.pool);
            if ends {
                let chosen = match &output {
                    Output::Tokens(ids) => Chosen::Id(ids[i]),
                    Output::Logits(logits) => Chosen::By(&logits[i * n_vocab..(i + 1) * n_vocab]),
                    Output::Nothing => unreachable!("the step had outputs"),
                };
                slot.deliver(chosen, &self.limits);
                i += 1;
            }
        }
        Ok(())
    }
}

/// What a step brings for these slots, whose tokens come next.
fn want<'a>(ending: &mut [&mut Slot], draws: &'a mut Vec<Draw>) -> Want<'a> {
    let mut generations: Vec<&mut Generation> = ending.iter_mut().filter_map(|slot| slot.generation.as_mut()).collect();
    if generations.is_empty() {
        Want::Nothing
    } else if generations.iter().any(|g| g.options().needs_logits()) {
        Want::Logits
    } else if generations.iter().all(|g| g.options().is_argmax()) {
        Want::Argmax
    } else {
        draws.extend(generations.iter_mut().map(|g| g.next_draw()));
        Want::Draw(draws)
    }
}
