//! What a step says to the kernels: counts, output rows and how their tokens are drawn, page tables, rows, RoPE angles, in one
//! buffer and for a token mostly in one write.

use super::device::Device;
use crate::backend::{Limits, PAGE_LEN, Plan, Step, Want};
use crate::error::Result;
use crate::graph::Graph;

/// What is nearer to what was written last than this goes in the same write: so many bytes are copied while a write of its own is
/// set up.
const NEAR_BYTES: u64 = 16 << 10;

/// Offset and size of a part of the buffer.
pub(super) type Region = (u64, u64);

/// The buffer that a step writes.
pub(super) struct Inputs {
    pub(super) buffer: wgpu::Buffer,
    pub(super) step: Region,
    pub(super) outputs: Region,
    pub(super) draws: Region,
    pub(super) tables: Region,
    pub(super) rows: Region,
    pub(super) angles: Vec<Region>,
    pages_per_seq: usize,
    /// Kept for its allocation.
    bytes: Vec<u8>,
}

impl Inputs {
    pub(super) fn new(device: &Device, graph: &Graph, limits: &Limits) -> Result<Self> {
        let mut end = 0;
        let mut take = |bytes: usize| {
            let region = (end, (bytes as u64).next_multiple_of(16).max(16));
            end = (region.0 + region.1).next_multiple_of(device.caps.offset_alignment);
            region
        };
        let pages_per_seq = limits.n_ctx.div_ceil(PAGE_LEN);
        let step = take(16);
        let outputs = take(4 * limits.max_outputs);
        let draws = take(size_of::<Plan>() * limits.max_outputs);
        let tables = take(4 * limits.max_seqs * pages_per_seq);
        let rows = take(16 * limits.max_rows);
        let angles = graph.ropes.iter().map(|rope| take(8 * limits.max_rows * rope.inv_freq.len())).collect();
        let copies = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM | copies;
        let buffer = device.buffer("inputs", end, usage)?;
        Ok(Self { buffer, step, outputs, draws, tables, rows, angles, pages_per_seq, bytes: Vec::new() })
    }

    pub(super) fn binding(&self, (offset, size): Region) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset,
            size: wgpu::BufferSize::new(size),
        })
    }

    /// Where the step's stamp is.
    pub(super) fn stamp_offset(&self) -> u64 {
        self.step.0 + 8
    }

    /// Writes everything that the kernels read about the step, and its stamp; returns in how many writes.
    pub(super) fn write(&mut self, queue: &wgpu::Queue, graph: &Graph, step: &Step<'_>, stamp: u32) -> u64 {
        self.bytes.clear();
        let mut writer = Writer { queue, buffer: &self.buffer, start: 0, bytes: &mut self.bytes, n_writes: 0 };
        writer.put(&[step.rows.len() as u32, step.outputs.len() as u32, stamp, 0]);
        writer.go_to(self.outputs);
        writer.put(step.outputs);
        if let Want::Draw(draws) = step.want {
            writer.go_to(self.draws);
            draws.iter().for_each(|draw| writer.put(&[Plan::from(draw)]));
        }
        for (seq, pages) in (0..).zip(step.pages) {
            writer.go_to((self.tables.0 + seq * 4 * self.pages_per_seq as u64, 0));
            writer.put(pages);
        }
        writer.go_to(self.rows);
        for row in step.rows {
            let (page, within) = (row.pos as usize / PAGE_LEN, row.pos as usize % PAGE_LEN);
            let slot = step.pages[row.seq as usize][page] as usize * PAGE_LEN + within;
            let table = row.seq as usize * self.pages_per_seq;
            writer.put(&[row.token, row.pos, slot as u32, table as u32]);
        }
        for (rope, region) in graph.ropes.iter().zip(&self.angles) {
            writer.go_to(*region);
            for row in step.rows {
                for &freq in &rope.inv_freq {
                    let (sin, cos) = (f64::from(row.pos) * freq).sin_cos();
                    writer.put(&[cos as f32 * rope.scale, sin as f32 * rope.scale]);
                }
            }
        }
        writer.flush();
        writer.n_writes
    }
}

/// Gathers bytes for a buffer in ascending order. What lies between them is not defined afterwards.
struct Writer<'a> {
    queue: &'a wgpu::Queue,
    buffer: &'a wgpu::Buffer,
    /// Where `bytes` go.
    start: u64,
    bytes: &'a mut Vec<u8>,
    n_writes: u64,
}

impl Writer<'_> {
    fn put<T: bytemuck::NoUninit>(&mut self, values: &[T]) {
        self.bytes.extend_from_slice(bytemuck::cast_slice(values));
    }

    fn go_to(&mut self, (offset, _): Region) {
        let end = self.start + self.bytes.len() as u64;
        if offset - end > NEAR_BYTES {
            self.flush();
            self.start = offset;
        }
        self.bytes.resize((offset - self.start) as usize, 0);
    }

    fn flush(&mut self) {
        self.queue.write_buffer(self.buffer, self.start, self.bytes);
        self.bytes.clear();
        self.n_writes += 1;
    }
}
