//! Recorded calls, and how a step plays them: into passes, and passes into submissions of bounded length.

use super::cost::{Cost, Span};
use super::device::Device;
use super::kernels::Grid;
use super::pipeline::Kernel;
use super::profile::Profiler;
use super::readback::MAX_STAMPS;

/// A call with everything that it needs.
pub(crate) struct Recorded {
    pub kernel: Kernel,
    pub groups: [Option<wgpu::BindGroup>; 2],
    pub grid: Grid,
    pub cost: Cost,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub dispatches: u64,
    pub submits: u64,
    pub passes: u64,
    /// Writes of what a step says.
    pub writes: u64,
    /// Buffers, bind groups and pipelines made.
    pub created: u64,
    /// Multiply-adds.
    pub ops: u64,
    /// Nanoseconds of the host's time to encode and submit.
    pub host_ns: u64,
}

impl Counters {
    /// Adds what another piece of the step did.
    pub(crate) fn add(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.submits += other.submits;
        self.passes += other.passes;
        self.writes += other.writes;
        self.created += other.created;
        self.ops += other.ops;
        self.host_ns += other.host_ns;
    }
}

/// Plays calls.
pub(crate) struct Player<'a> {
    device: &'a Device,
    /// Multiply-adds that fit a submission.
    room: u64,
    used: u64,
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
    /// Ends a submission: with its encoder, and how many there were before it.
    seal: &'a dyn Fn(&mut wgpu::CommandEncoder, usize),
    profiler: Option<&'a mut Profiler>,
    counters: Counters,
}

impl<'a> Player<'a> {
    pub(crate) fn new(
        device: &'a Device,
        room: u64,
        seal: &'a dyn Fn(&mut wgpu::CommandEncoder, usize),
        profiler: Option<&'a mut Profiler>,
    ) -> Self {
        let encoder = device.device.create_command_encoder(&Default::default());
        Self { device, room, used: 0, encoder, pass: None, seal, profiler, counters: Counters::default() }
    }

    /// Plays calls for these rows.
    pub(crate) fn play(&mut self, calls: &[Recorded], span: Span<'_>) {
        for call in calls {
            let Some(size) = call.grid.size(span.n as u32, span.rows) else { continue };
            let ops = call.cost.ops(span);
            if self.used > 0 && self.used + ops > self.room && self.counters.submits as usize + 1 < MAX_STAMPS {
                self.submit();
            }
            self.used += ops;
            self.counters.ops += ops;
            self.dispatch(call, size, span);
        }
    }

    fn dispatch(&mut self, call: &Recorded, [x, y, z]: [u32; 3], span: Span<'_>) {
        // Where a pass has no timestamps inside, it has one call.
        if self.profiler.as_ref().is_some_and(|profiler| !profiler.inside) {
            self.pass = None;
        }
        if self.pass.is_none() {
            let timestamp_writes = self.profiler.as_ref().and_then(|profiler| profiler.pass());
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            self.pass = Some(self.encoder.begin_compute_pass(&descriptor).forget_lifetime());
            self.counters.passes += 1;
        }
        let Some(pass) = &mut self.pass else { return };
        if let Some(profiler) = &self.profiler {
            profiler.before(pass);
        }
        pass.set_pipeline(call.kernel.pipeline());
        for (index, group) in (0..).zip(&call.groups) {
            if let Some(group) = group {
                pass.set_bind_group(index, group, &[]);
            }
        }
        pass.dispatch_workgroups(x, y, z);
        self.counters.dispatches += 1;
        if let Some(profiler) = &mut self.profiler {
            profiler.after(pass, &call.kernel, call.cost.traffic(span));
        }
    }

    fn submit(&mut self) -> wgpu::SubmissionIndex {
        self.pass = None;
        (self.seal)(&mut self.encoder, self.counters.submits as usize);
        let next = self.device.device.create_command_encoder(&Default::default());
        let encoder = std::mem::replace(&mut self.encoder, next);
        self.counters.submits += 1;
        self.used = 0;
        self.device.queue.submit([encoder.finish()])
    }

    /// Submits the rest, with what `last` adds behind all calls.
    pub(crate) fn finish(mut self, last: impl FnOnce(&mut wgpu::CommandEncoder)) -> (Counters, wgpu::SubmissionIndex) {
        self.pass = None;
        last(&mut self.encoder);
        if let Some(profiler) = &self.profiler {
            profiler.resolve(&mut self.encoder);
        }
        (self.seal)(&mut self.encoder, self.counters.submits as usize);
        self.counters.submits += 1;
        let submission = self.device.queue.submit([self.encoder.finish()]);
        (self.counters, submission)
    }
}
