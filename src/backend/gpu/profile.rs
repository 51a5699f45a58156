//! Where the time of steps goes: timestamps around each call, set beside the bytes that it moves.
//!
//! Devices that take timestamps inside a pass run steps as always, with a timestamp between calls. On others (Apple's) each
//! call has a pass of its own, which costs time between calls and is said in the result. What a device can read is
//! measured, not looked up: by a kernel that does nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cost::Traffic;
use super::device::Device;
use super::pipeline::{Kernel, Pipelines};
use super::shader::KernelKey;
use crate::backend::{KernelProfile, PhaseProfile, Profile};
use crate::error::{Error, Result};

/// Timestamps in a step, at most; WebGPU's limit for a query set.
const MOST_QUERIES: u32 = 4096;
const QUERY_BYTES: u64 = 8;

/// Bytes that `memread` reads: more than caches hold, less if the device has no room for that.
const MEMREAD_BYTES: u64 = 256 << 20;
const MEMREAD_WG: u32 = 64;
const MEMREAD_STRIDES: u32 = 64;
const MEMREAD_GROUP_BYTES: u64 = 16 * MEMREAD_WG as u64 * MEMREAD_STRIDES as u64;
/// How often it reads them; the fastest counts.
const MEMREAD_RUNS: usize = 5;

/// Measures steps, one at a time.
pub(crate) struct Profiler {
    device: Arc<Device>,
    /// Whether timestamps are taken inside passes.
    pub inside: bool,
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
    /// Seconds of a tick.
    period: f64,
    /// Timestamps of the step so far.
    n_queries: u32,
    /// Calls of the step so far, each with two timestamps.
    marks: Vec<(String, Traffic)>,
    read_bandwidth: f64,
    phases: [Phase; 2],
}

/// What all steps of one kind took together.
#[derive(Default)]
struct Phase {
    steps: u64,
    rows: u64,
    elapsed: Duration,
    kernels: HashMap<String, KernelProfile>,
}

impl Profiler {
    /// Prepares a device, and measures how fast it reads, once nothing else keeps it or the CPU busy.
    ///
    /// # Errors
    /// If the device has no timestamps, or no room.
    pub(crate) fn new(device: &Arc<Device>, pipelines: &mut Pipelines) -> Result<Self> {
        let features = device.device.features();
        if !features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(device.error("it takes no timestamps, and can't be profiled"));
        }
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: MOST_QUERIES };
        let bytes = QUERY_BYTES * u64::from(MOST_QUERIES);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let mut profiler = Self {
            device: device.clone(),
            inside: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            set: device.device.create_query_set(&descriptor),
            resolved: device.buffer("timestamps", bytes, usage)?,
            read: device.buffer("timestamps", bytes, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ)?,
            period: f64::from(device.queue.get_timestamp_period()) * 1e-9,
            n_queries: 0,
            marks: Vec::new(),
            read_bandwidth: 0.0,
            phases: Default::default(),
        };
        pipelines.wait();
        profiler.read_bandwidth = profiler.memread(pipelines)?;
        Ok(profiler)
    }

    /// What a pass that is about to begin writes, where it has one call.
    pub(crate) fn pass(&self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        (!self.inside && self.has_room()).then(|| self.writes(self.n_queries))
    }

    fn writes(&self, first: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// Whether another call can be timed. What can't counts as time outside kernels.
    fn has_room(&self) -> bool {
        self.n_queries + 2 <= MOST_QUERIES
    }

    /// Before a call.
    pub(crate) fn before(&self, pass: &mut wgpu::ComputePass<'_>) {
        if self.inside && self.has_room() {
            pass.write_timestamp(&self.set, self.n_queries);
        }
    }

    /// After a call, of which it takes note.
    pub(crate) fn after(&mut self, pass: &mut wgpu::ComputePass<'_>, kernel: &Kernel, traffic: Traffic) {
        if self.has_room() {
            if self.inside {
                pass.write_timestamp(&self.set, self.n_queries + 1);
            }
            self.marks.push((kernel.name(), traffic));
            self.n_queries += 2;
        }
    }

    /// After all calls of a step.
    pub(crate) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.n_queries > 0 {
            encoder.resolve_query_set(&self.set, 0..self.n_queries, &self.resolved, 0);
            let bytes = QUERY_BYTES * u64::from(self.n_queries);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, bytes);
        }
    }

    /// Seconds of each pair of timestamps that was resolved, once the device is done; then there are none.
    fn seconds(&mut self) -> Result<Vec<f64>> {
        let bytes = QUERY_BYTES * u64::from(std::mem::take(&mut self.n_queries));
        if bytes == 0 {
            return Ok(vec![]);
        }
        self.read.map_async(wgpu::MapMode::Read, ..bytes, |_| ());
        self.device.wait()?;
        let view = self.read.get_mapped_range(..bytes).map_err(|e| self.device.error(e))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        self.read.unmap();
        // A device that does not run anything gives no times either.
        Ok(ticks.as_chunks::<2>().0.iter().map(|[a, b]| b.saturating_sub(*a) as f64 * self.period).collect())
    }

    /// Counts a step of `rows` rows, which took `elapsed`.
    ///
    /// # Errors
    /// If the device failed.
    pub(crate) fn count(&mut self, rows: usize, elapsed: Duration) -> Result<()> {
        let seconds = self.seconds()?;
        let phase = &mut self.phases[usize::from(rows == 1)];
        phase.steps += 1;
        phase.rows += rows as u64;
        phase.elapsed += elapsed;
        for ((name, traffic), seconds) in self.marks.drain(..).zip(seconds) {
            let kernel = phase.kernels.entry(name).or_default();
            kernel.calls += 1;
            kernel.time += Duration::from_secs_f64(seconds);
            kernel.weight_bytes += traffic.weights;
            kernel.kv_bytes += traffic.kv;
            kernel.tensor_bytes += traffic.tensors;
        }
        Ok(())
    }

    /// What was counted since the last call.
    pub(crate) fn take(&mut self) -> Profile {
        let phases = std::mem::take(&mut self.phases).into_iter().zip(["prompt", "decode"]);
        let phases = phases.filter(|(phase, _)| phase.steps > 0).map(|(phase, name)| {
            let named = |(name, kernel)| KernelProfile { name, ..kernel };
            let mut kernels: Vec<_> = phase.kernels.into_iter().map(named).collect();
            kernels.sort_by(|a, b| (b.time, &a.name).cmp(&(a.time, &b.name)));
            PhaseProfile { name, steps: phase.steps, rows: phase.rows, elapsed: phase.elapsed, kernels }
        });
        Profile { read_bandwidth: self.read_bandwidth, pass_per_call: !self.inside, phases: phases.collect() }
    }

    /// Bytes a second that `memread` reads.
    fn memread(&mut self, pipelines: &mut Pipelines) -> Result<f64> {
        let device = self.device.clone();
        let storage = wgpu::BufferUsages::STORAGE;
        let most = MEMREAD_BYTES.min(device.caps.max_binding_bytes);
        let rooms = [most, most / 4, most / 16].map(|bytes| (bytes / MEMREAD_GROUP_BYTES).clamp(1, 65_535));
        let made =
            rooms.iter().find_map(|&n| Some((n, device.buffer("memory", n * MEMREAD_GROUP_BYTES, storage).ok()?)));
        let Some((n_groups, memory)) = made else {
            return Err(Error::OutOfMemory {
                what: format!("measuring how fast {} reads", device.info.name),
                needed_bytes: rooms[2] * MEMREAD_GROUP_BYTES,
                available_bytes: 0,
            });
        };
        let sums = device.buffer("sums", 4 * n_groups, storage)?;
        let kernel = pipelines.kernel(&memread_key(), &[vec![0, 1]]);
        device.count();
        let group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: kernel.group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: memory.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: sums.as_entire_binding() },
            ],
        });
        let mut encoder = device.device.create_command_encoder(&Default::default());
        for _ in 0..MEMREAD_RUNS {
            let timestamp_writes = Some(self.writes(self.n_queries));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            pass.set_pipeline(kernel.pipeline());
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(n_groups as u32, 1, 1);
            drop(pass);
            self.n_queries += 2;
        }
        self.resolve(&mut encoder);
        device.queue.submit([encoder.finish()]);
        let fastest = self.seconds()?.into_iter().fold(f64::INFINITY, f64::min);
        Ok((n_groups * MEMREAD_GROUP_BYTES) as f64 / fastest)
    }
}

/// The kernel that measures bandwidth.
pub(crate) fn memread_key() -> KernelKey {
    let constants = vec![("WG", MEMREAD_WG.into()), ("STRIDES", MEMREAD_STRIDES.into())];
    KernelKey { kernel: "memread", modules: vec![], constants }
}
