//! Results on their way from the device: steps that were submitted, and the buffers that their results are copied to.
//!
//! A step's copy is mapped as soon as it is submitted, and waited for only when somebody asks, while later steps already
//! run. Tokens have a ring of buffers, one for each step that may be under way; logits, which are large, have one.

use std::collections::VecDeque;

use super::device::Device;
use crate::backend::{Limits, NO_TOKEN, Output, Ticket, Want};
use crate::error::Result;

/// Steps that may be under way: one that runs, one that waits its turn.
pub(crate) const MAX_IN_FLIGHT: usize = 2;

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
        let make = |label: &str, n: usize| device.buffer(label, (4 * n as u64).max(16), usage);
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
            encoder.copy_buffer_to_buffer(source, 0, self.target(kind, self.n_submitted), 0, bytes);
        }
    }

    /// Takes note of the step that was submitted last.
    pub(crate) fn submitted(&mut self, want: Want<'_>, n: usize, submission: wgpu::SubmissionIndex) -> Ticket {
        let (number, (kind, bytes)) = (self.n_submitted, self.size(want, n));
        if bytes > 0 {
            self.target(kind, number).map_async(wgpu::MapMode::Read, ..bytes, |_| ());
        }
        self.n_submitted += 1;
        self.flights.push_back(Flight { number, kind, bytes, submission });
        Ticket::Number(number)
    }

    /// Waits for the oldest step, which is the one of `ticket`.
    ///
    /// # Errors
    /// If the device failed.
    ///
    /// # Panics
    /// If it is another one's.
    pub(crate) fn finish(&mut self, device: &Device, ticket: &Ticket) -> Result<Output> {
        let flight = self.flights.pop_front().filter(|flight| *ticket == Ticket::Number(flight.number));
        let Some(Flight { number, kind, bytes, submission }) = flight else {
            panic!("{ticket:?} is not the oldest step under way");
        };
        device.wait_for(Some(submission))?;
        if bytes == 0 {
            return Ok(match kind {
                Kind::Nothing => Output::Nothing,
                Kind::Tokens => Output::Tokens(vec![]),
                Kind::Logits => Output::Logits(vec![]),
            });
        }
        let buffer = self.target(kind, number);
        let view = buffer.get_mapped_range(..bytes).map_err(|e| device.error(e))?;
        let output = match kind {
            Kind::Logits => Output::Logits(bytemuck::pod_collect_to_vec(&view)),
            _ => Output::Tokens(bytemuck::pod_collect_to_vec(&view).into_iter().map(known).collect()),
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
