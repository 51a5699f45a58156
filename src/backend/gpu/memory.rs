//! Where everything lies on the device: weights packed into planes and split to fit bindings, values, KV cache.
//!
//! Sizes are planned first, then buffers are made, then weights are uploaded through two staging buffers of fixed
//! size. A weight that is larger than a binding may be is split by rows; a kernel then runs once a part.

use std::collections::HashMap;
use std::ops::Range;

use super::device::{Capabilities, Device};
use crate::backend::{Progress, Weights};
use crate::error::{Error, Result};
use crate::graph::WeightRef;
use crate::quant::{Format, Weight};

/// Bytes of each of the two staging buffers.
const STAGING_BYTES: u64 = 8 << 20;
/// Weight buffers grow up to this size, so that there are few of them and none is too large for a driver.
const ARENA_BYTES: u64 = 256 << 20;
/// Weights in an addressable unit of the kernels.
pub(crate) const GROUP: usize = 32;

/// A piece of one of [`WeightMemory`]'s buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    buffer: usize,
    offset: u64,
    size: u64,
}

/// How the rows of several weights make one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// All rows of the first, then all of the second, …
    Stacked,
    /// Row 0 of each, then row 1 of each, …
    Interleaved,
}

/// A matrix on the device, out of one weight or several of one format and row length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MatrixRef {
    pub weights: Vec<WeightRef>,
    pub order: Order,
}

impl MatrixRef {
    pub(crate) fn single(weight: &WeightRef) -> Self {
        Self { weights: vec![weight.clone()], order: Order::Stacked }
    }

    /// Rows, M.
    pub(crate) fn n_rows(&self) -> usize {
        self.weights.iter().map(|w| w.shape[0]).sum()
    }

    /// Row length, K.
    pub(crate) fn row_len(&self) -> usize {
        self.weights[0].shape[1]
    }
}

/// Rows of a matrix that one dispatch can bind.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub rows: Range<usize>,
    planes: Vec<Region>,
}

/// A packed matrix.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub format: &'static Format,
    pub parts: Vec<Part>,
}

/// All weights of a program.
pub(crate) struct WeightMemory {
    /// Bytes of each buffer.
    sizes: Vec<u64>,
    /// None before they are uploaded.
    buffers: Vec<wgpu::Buffer>,
    matrices: HashMap<MatrixRef, Matrix>,
    vectors: HashMap<Vec<WeightRef>, Region>,
    /// Bytes of all buffers.
    pub bytes: u64,
}

impl WeightMemory {
    /// Plans, allocates and uploads.
    ///
    /// # Errors
    /// If a tensor is missing or not in a shape that the kernels take, or the device has no room.
    pub(crate) fn load(
        device: &Device,
        source: &dyn Weights,
        matrices: &[MatrixRef],
        vectors: &[Vec<WeightRef>],
        progress: Progress<'_>,
    ) -> Result<Self> {
        let mut memory = Self::plan(&device.caps, &device.info.name, source, matrices, vectors)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        for &size in &memory.sizes {
            memory.buffers.push(device.buffer("weights", size, usage)?);
        }
        memory.upload(device, source, progress)?;
        Ok(memory)
    }

    /// Where everything will lie on a device with these capabilities, which need not exist: only shapes and formats are
    /// asked for. `adapter` is its name, for errors.
    ///
    /// # Errors
    /// If a tensor is missing or not in a shape that the kernels take, or does not fit a binding.
    pub(crate) fn plan(
        caps: &Capabilities,
        adapter: &str,
        source: &dyn Weights,
        matrices: &[MatrixRef],
        vectors: &[Vec<WeightRef>],
    ) -> Result<Self> {
        let mut plan = Plan { caps, adapter, sizes: Vec::new() };
        let mut memory = Self {
            sizes: Vec::new(),
            buffers: Vec::new(),
            matrices: HashMap::new(),
            vectors: HashMap::new(),
            bytes: 0,
        };
        for matrix in matrices {
            if !memory.matrices.contains_key(matrix) {
                memory.matrices.insert(matrix.clone(), plan.matrix(source, matrix)?);
            }
        }
        for vector in vectors {
            if !memory.vectors.contains_key(vector) {
                let n: usize = vector.iter().map(|w| w.shape[0] * w.shape[1]).sum();
                memory.vectors.insert(vector.clone(), plan.take(4 * n as u64)?);
            }
        }
        memory.bytes = plan.sizes.iter().sum();
        memory.sizes = plan.sizes;
        Ok(memory)
    }

    /// A matrix that was planned.
    pub(crate) fn matrix(&self, matrix: &MatrixRef) -> &Matrix {
        &self.matrices[matrix]
    }

    /// The bindings of a part's planes, in the order of [`Format::planes`].
    pub(crate) fn planes<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = wgpu::BindingResource<'a>> {
        part.planes.iter().map(|region| self.binding(*region))
    }

    /// The binding of a vector that was planned.
    pub(crate) fn vector(&self, vector: &[WeightRef]) -> wgpu::BindingResource<'_> {
        self.binding(self.vectors[vector])
    }

    fn binding(&self, region: Region) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffers[region.buffer],
            offset: region.offset,
            size: wgpu::BufferSize::new(region.size),
        })
    }

    fn upload(&self, device: &Device, source: &dyn Weights, progress: Progress<'_>) -> Result<()> {
        let mut uploader = Uploader::new(device, self, progress)?;
        for (name, matrix) in &self.matrices {
            let rows = Rows::new(source, name)?;
            for part in &matrix.parts {
                uploader.part(matrix.format, &rows, part)?;
            }
        }
        for (names, region) in &self.vectors {
            let mut numbers = Vec::new();
            for name in names {
                numbers.extend(resolve(source, name)?.to_f32());
            }
            uploader.write(*region, 0, bytemuck::cast_slice(&numbers))?;
        }
        uploader.finish()
    }
}

/// The weight that a reference means.
pub(crate) fn resolve(source: &dyn Weights, name: &WeightRef) -> Result<Weight> {
    let weight = source.weight(&name.name).ok_or_else(|| Error::MissingTensor { tensor: name.name.clone() })?;
    Ok(match &name.rows {
        Some(rows) => weight.rows(rows.clone()),
        None => weight,
    })
}

/// Hands out regions before there are buffers.
struct Plan<'a> {
    caps: &'a Capabilities,
    adapter: &'a str,
    sizes: Vec<u64>,
}

impl Plan<'_> {
    fn take(&mut self, bytes: u64) -> Result<Region> {
        let caps = self.caps;
        let size = bytes.next_multiple_of(16).max(16);
        if size > caps.max_binding_bytes {
            return Err(Error::OutOfMemory {
                what: format!("a weight in one binding of {}", self.adapter),
                needed_bytes: size,
                available_bytes: caps.max_binding_bytes,
            });
        }
        let limit = caps.max_buffer_bytes.min(ARENA_BYTES.max(size));
        let fits = |used: &u64| used.next_multiple_of(caps.offset_alignment) + size <= limit;
        if !self.sizes.last().is_some_and(fits) {
            self.sizes.push(0);
        }
        let buffer = self.sizes.len() - 1;
        let offset = self.sizes[buffer].next_multiple_of(caps.offset_alignment);
        self.sizes[buffer] = offset + size;
        Ok(Region { buffer, offset, size })
    }

    fn matrix(&mut self, source: &dyn Weights, matrix: &MatrixRef) -> Result<Matrix> {
        let name = &matrix.weights[0].name;
        let format = source.weight(name).ok_or_else(|| Error::MissingTensor { tensor: name.clone() })?.format;
        let row_len = matrix.row_len();
        if !row_len.is_multiple_of(GROUP) || !row_len.is_multiple_of(format.block_len) {
            let what = format!("`{}` has rows of {row_len}, not a multiple of {GROUP}", matrix.weights[0].name);
            return Err(Error::Gpu { adapter: self.adapter.into(), what });
        }
        let blocks = row_len / format.block_len;
        let widest = format.planes.iter().map(|plane| plane.block_bytes).max().unwrap_or(1);
        // Four rows at a time, as the kernels do; 16 bytes are left for rounding up.
        let most = (self.caps.max_binding_bytes as usize).saturating_sub(16) / (blocks * widest);
        let step = if most >= 4 { most / 4 * 4 } else { most / 2 * 2 };
        if step == 0 {
            return Err(Error::OutOfMemory {
                what: format!("two rows of `{}` in one binding", matrix.weights[0].name),
                needed_bytes: 2 * (blocks * widest) as u64,
                available_bytes: self.caps.max_binding_bytes,
            });
        }
        let n_rows = matrix.n_rows();
        let mut parts = Vec::new();
        for start in (0..n_rows).step_by(step) {
            let rows = start..n_rows.min(start + step);
            let planes = format.planes.iter().map(|plane| self.take((rows.len() * blocks * plane.block_bytes) as u64));
            let planes = planes.collect::<Result<_>>()?;
            parts.push(Part { rows, planes });
        }
        Ok(Matrix { format, parts })
    }
}

/// The rows of a matrix in the order in which it has them.
struct Rows {
    weights: Vec<Weight>,
    order: Order,
}

impl Rows {
    fn new(source: &dyn Weights, matrix: &MatrixRef) -> Result<Self> {
        let weights = matrix.weights.iter().map(|name| resolve(source, name)).collect::<Result<_>>()?;
        Ok(Self { weights, order: matrix.order })
    }

    fn row_len(&self) -> usize {
        self.weights[0].row_len()
    }

    fn row_bytes(&self) -> usize {
        self.weights[0].row_bytes()
    }

    /// The bytes of row `row` and of as many after it as lie behind it in memory.
    fn run(&self, row: usize) -> &[u8] {
        let row_bytes = self.row_bytes();
        match self.order {
            Order::Interleaved => {
                let n = self.weights.len();
                &self.weights[row % n].bytes[row / n * row_bytes..][..row_bytes]
            }
            Order::Stacked => {
                let mut row = row;
                for weight in &self.weights {
                    if row < weight.n_rows() {
                        return &weight.bytes[row * row_bytes..];
                    }
                    row -= weight.n_rows();
                }
                panic!("a row beyond the matrix")
            }
        }
    }

    /// Appends the bytes of `rows` to `out`.
    fn copy(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let (mut row, row_bytes) = (rows.start, self.row_bytes());
        while row < rows.end {
            let run = self.run(row);
            let n = (run.len() / row_bytes).min(rows.end - row);
            out.extend_from_slice(&run[..n * row_bytes]);
            row += n;
        }
    }
}

/// Copies through two staging buffers by turns: while the device empties one, the other is filled.
struct Uploader<'a> {
    device: &'a Device,
    memory: &'a WeightMemory,
    staging: [wgpu::Buffer; 2],
    current: usize,
    used: u64,
    encoder: Option<wgpu::CommandEncoder>,
    done: u64,
    progress: Progress<'a>,
}

impl<'a> Uploader<'a> {
    fn new(device: &'a Device, memory: &'a WeightMemory, progress: Progress<'a>) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let staging =
            [device.buffer("staging", STAGING_BYTES, usage)?, device.buffer("staging", STAGING_BYTES, usage)?];
        let mut uploader = Self { device, memory, staging, current: 0, used: 0, encoder: None, done: 0, progress };
        uploader.map()?;
        Ok(uploader)
    }

    /// Maps the current staging buffer, waiting until the device has read it.
    fn map(&mut self) -> Result<()> {
        self.staging[self.current].map_async(wgpu::MapMode::Write, .., |_| ());
        self.device.wait()
    }

    /// Packs and writes the rows of `part`, as many at a time as fit the scratch space.
    fn part(&mut self, format: &Format, rows: &Rows, part: &Part) -> Result<()> {
        let blocks = rows.row_len() / format.block_len;
        let row_bytes = rows.row_bytes();
        // An even number of rows keeps planes of two bytes a block on word boundaries.
        let chunk = ((1 << 20) / row_bytes).max(2) / 2 * 2;
        let (mut bytes, mut planes) = (Vec::new(), vec![Vec::new(); format.planes.len()]);
        for start in part.rows.clone().step_by(chunk) {
            let range = start..part.rows.end.min(start + chunk);
            bytes.clear();
            rows.copy(range.clone(), &mut bytes);
            for (plane, buffer) in format.planes.iter().zip(&mut planes) {
                buffer.resize(range.len() * blocks * plane.block_bytes, 0);
            }
            (format.pack)(&bytes, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
            for ((plane, buffer), region) in format.planes.iter().zip(&planes).zip(&part.planes) {
                let offset = (start - part.rows.start) * blocks * plane.block_bytes;
                self.write(*region, offset as u64, buffer)?;
            }
        }
        Ok(())
    }

    /// Writes `bytes` to `region` from `offset` on.
    fn write(&mut self, region: Region, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            if self.used == STAGING_BYTES {
                self.flush()?;
                self.map()?;
            }
            let n = (bytes.len() - sent).min((STAGING_BYTES - self.used) as usize);
            // Copies are whole words; regions have room for the last one.
            let words = (n as u64).next_multiple_of(4);
            let staging = &self.staging[self.current];
            let mut view =
                staging.get_mapped_range_mut(self.used..self.used + words).map_err(|e| self.device.error(e))?;
            view.slice(..n).copy_from_slice(&bytes[sent..sent + n]);
            drop(view);
            let encoder =
                self.encoder.get_or_insert_with(|| self.device.device.create_command_encoder(&Default::default()));
            let target = &self.memory.buffers[region.buffer];
            encoder.copy_buffer_to_buffer(staging, self.used, target, region.offset + offset + sent as u64, words);
            self.used += words.next_multiple_of(wgpu::MAP_ALIGNMENT);
            sent += n;
        }
        self.done += bytes.len() as u64;
        (self.progress)(self.done, self.memory.bytes);
        Ok(())
    }

    /// Submits what was written, and goes on with the other staging buffer.
    fn flush(&mut self) -> Result<()> {
        self.staging[self.current].unmap();
        if let Some(encoder) = self.encoder.take() {
            self.device.queue.submit([encoder.finish()]);
        }
        self.current = 1 - self.current;
        self.used = 0;
        self.device.check()
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.device.wait()?;
        (self.progress)(self.memory.bytes, self.memory.bytes);
        Ok(())
    }
}
