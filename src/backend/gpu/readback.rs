//! Results on their way from the device: steps that were submitted, and the buffers that their results are copied to.
//!
//! A step's copy is mapped as soon as it is submitted, and waited for only when somebody asks, while later steps already
//! run. Tokens have a ring of buffers, one for each step that may be under way; logits, which are large, have one.
//!
//! Metal reports a command buffer as done that was killed, and its results are then whatever was there before. So each
//! submission ends with a stamp: it copies the step's number, which the host wrote for it, into the buffer that is read.
//! A number that is not the step's is an error.

use std::collections::VecDeque;

use super::device::Device;
use crate::backend::{Limits, NO_TOKEN, Output, Ticket, Want};
use crate::error::{Error, Result};

/// Steps that may be under way: one that runs, one that waits its turn.
pub(crate) const MAX_IN_FLIGHT: usize = 2;

/// Submissions of a step, at most.
pub(crate) const MAX_STAMPS: usize = 1024;
/// Stamps lie before the results.
const STAMP_BYTES: u64 = 4 * MAX_STAMPS as u64;

/// What a step brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Tokens,
    Logits,
}

/// A submitted step.
struct Flight {
    number: u64,
    kind: Kind,
    bytes: u64,
    n_stamps: usize,
    submission: wgpu::SubmissionIndex,
}

/// Steps under way.
pub(crate) struct Readback {
    tokens: [wgpu::Buffer; MAX_IN_FLIGHT],
    logits: wgpu::Buffer,
    n_vocab: usize,
    n_submitted: u64,
    flights: VecDeque<Flight>,
}

impl Readback {
    /// Buffers for what a step can bring.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn new(device: &Device, limits: &Limits, n_vocab: usize) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let make = |label: &str, n: usize| device.buffer(label, STAMP_BYTES + (4 * n as u64).max(16), usage);
        Ok(Self {
            tokens: [make("tokens", limits.max_outputs)?, make("tokens", limits.max_outputs)?],
            logits: make("logits", limits.max_outputs * n_vocab)?,
            n_vocab,
            n_submitted: 0,
            flights: VecDeque::new(),
        })
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> u64 {
        self.tokens.iter().chain([&self.logits]).map(wgpu::Buffer::size).sum()
    }

    /// Copies what the step in `encoder` brings for `n` output rows, from the buffers of tokens and logits.
    ///
    /// # Panics
    /// If too many steps are under way.
    pub(crate) fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        want: Want<'_>,
        n: usize,
        [tokens, logits]: [&wgpu::Buffer; 2],
    ) {
        assert!(self.flights.len() < MAX_IN_FLIGHT, "{MAX_IN_FLIGHT} steps are under way");
        assert!(self.flights.iter().all(|flight| flight.kind != Kind::Logits), "a step with logits is under way");
        let (kind, bytes) = self.size(want, n);
        if bytes > 0 {
            let source = if kind == Kind::Logits { logits } else { tokens };
            encoder.copy_buffer_to_buffer(source, 0, self.target(kind, self.n_submitted), STAMP_BYTES, bytes);
        }
    }

    /// What the next step's submissions are stamped with. Neither of a fresh buffer nor of the step before in the same one.
    pub(crate) fn next_stamp(&self) -> u32 {
        (self.n_submitted as u32).wrapping_add(1)
    }

    /// Stamps the `i`-th submission of the step in `encoder`, which ends with this, with the word at `offset` of `source`.
    pub(crate) fn stamp(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        want: Want<'_>,
        i: usize,
        source: &wgpu::Buffer,
        offset: u64,
    ) {
        let target = self.target(self.size(want, 0).0, self.n_submitted);
        encoder.copy_buffer_to_buffer(source, offset, target, 4 * i as u64, 4);
    }

    /// Takes note of the step that was submitted last, in as many submissions as there are stamps.
    pub(crate) fn submitted(
        &mut self,
        want: Want<'_>,
        n: usize,
        n_stamps: usize,
        submission: wgpu::SubmissionIndex,
    ) -> Ticket {
        let (number, (kind, bytes)) = (self.n_submitted, self.size(want, n));
        self.target(kind, number).map_async(wgpu::MapMode::Read, ..STAMP_BYTES + bytes, |_| ());
        self.n_submitted += 1;
        self.flights.push_back(Flight { number, kind, bytes, n_stamps, submission });
        Ticket::Number(number)
    }

    /// Waits for the oldest step, which is the one of `ticket`.
    ///
    /// # Errors
    /// If the device failed.
    ///
    /// # Panics
    /// If it is another one's.
    pub(crate) fn finish(&mut self, device: &Device, ticket: &Ticket, check_stamps: bool) -> Result<Output> {
        let flight = self.flights.pop_front().filter(|flight| *ticket == Ticket::Number(flight.number));
        let Some(Flight { number, kind, bytes, n_stamps, submission }) = flight else {
            panic!("{ticket:?} is not the oldest step under way");
        };
        device.wait_for(Some(submission))?;
        let buffer = self.target(kind, number);
        let view = buffer.get_mapped_range(..STAMP_BYTES + bytes).map_err(|e| device.error(e))?;
        let (stamps, results) = view.split_at(STAMP_BYTES as usize);
        let stamps: Vec<u32> = bytemuck::pod_collect_to_vec(&stamps[..4 * n_stamps]);
        let stale = stamps.iter().position(|stamp| *stamp != (number as u32).wrapping_add(1));
        if let Some(i) = stale.filter(|_| check_stamps) {
            let adapter = device.info.name.clone();
            let what = format!("submission {} of {n_stamps} of step {number} did not run to its end", i + 1);
            return Err(Error::DeviceLost { adapter, what });
        }
        let output = match kind {
            Kind::Nothing => Output::Nothing,
            Kind::Logits => Output::Logits(bytemuck::pod_collect_to_vec(results)),
            Kind::Tokens => Output::Tokens(bytemuck::pod_collect_to_vec(results).into_iter().map(known).collect()),
        };
        drop(view);
        buffer.unmap();
        Ok(output)
    }

    /// What `want` brings for `n` rows, and how many bytes that are.
    fn size(&self, want: Want<'_>, n: usize) -> (Kind, u64) {
        match want {
            Want::Nothing => (Kind::Nothing, 0),
            Want::Argmax | Want::Draw(_) => (Kind::Tokens, 4 * n as u64),
            Want::Logits => (Kind::Logits, 4 * (n * self.n_vocab) as u64),
        }
    }

    fn target(&self, kind: Kind, number: u64) -> &wgpu::Buffer {
        match kind {
            Kind::Logits => &self.logits,
            _ => &self.tokens[number as usize % MAX_IN_FLIGHT],
        }
    }
}

fn known(token: u32) -> Option<u32> {
    (token != NO_TOKEN).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::DeviceOptions;

    /// Finishes two steps of three submissions, of which the second's stamp says `second`.
    fn finish(device: &Device, second: u32) -> Result<Output> {
        let limits = Limits { max_rows: 1, max_outputs: 1, max_seqs: 1, n_ctx: 32, n_pages: 1 };
        let mut readback = Readback::new(device, &limits, 8)?;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let words = device.buffer("words", 16, usage)?;
        let mut output = Output::Nothing;
        for (step, stamps) in [[1, 1, 1], [2, second, 2]].iter().enumerate() {
            assert_eq!(readback.next_stamp(), step as u32 + 1);
            let mut last = None;
            for (i, stamp) in stamps.iter().enumerate() {
                device.queue.write_buffer(&words, 0, bytemuck::bytes_of(&[40, *stamp, 0, 0]));
                let mut encoder = device.device.create_command_encoder(&Default::default());
                readback.stamp(&mut encoder, Want::Argmax, i, &words, 4);
                readback.copy(&mut encoder, Want::Argmax, 1, [&words, &words]);
                last = Some(device.queue.submit([encoder.finish()]));
            }
            let ticket = readback.submitted(Want::Argmax, 1, stamps.len(), last.expect("three submissions"));
            output = readback.finish(device, &ticket, true)?;
        }
        Ok(output)
    }

    #[test]
    fn a_submission_that_did_not_run_is_an_error() {
        let device = Device::open(&DeviceOptions::default()).expect("an adapter");
        assert_eq!(finish(&device, 2).expect("all ran"), Output::Tokens(vec![Some(40)]));
        // The killed submission leaves what the step before wrote, or nothing at all.
        for stale in [1, 0] {
            let error = finish(&device, stale).expect_err("one did not run");
            assert!(matches!(&error, Error::DeviceLost { what, .. } if what.contains("2 of 3")), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
