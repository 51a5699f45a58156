//! Where everything lies on the device: weights packed into planes and split to fit bindings, values, KV cache.
//!
//! Sizes are planned first, then buffers are made and filled. A weight that is larger than a binding may be is split by
//! rows; a kernel then runs once a part.

use std::collections::HashMap;
use std::ops::Range;

use super::device::{Capabilities, Device};
use super::upload::{Piece, Rows, upload};
use crate::backend::{Progress, Weights};
use crate::error::{Error, Result};
use crate::graph::WeightRef;
use crate::quant::{Format, Weight};

/// Weight buffers grow up to this size, so that there are few of them and none is too large for a driver.
const ARENA_BYTES: u64 = 256 << 20;
/// Rows that a kernel may take at a time: a part of a matrix has zeros up to a multiple of it.
const ROWS: usize = 4;
/// Weights in an addressable unit of the kernels.
pub(crate) const GROUP: usize = 32;

/// A piece of one of [`WeightMemory`]'s buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub buffer: usize,
    pub offset: u64,
    pub size: u64,
}

/// How the rows of several weights make one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// All rows of the first, then all of the second, …
    Stacked,
    /// Row 0 of the first and of the second, then row 1 of both, …; then those of the third and the fourth, …
    Pairs,
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
    pub planes: Vec<Region>,
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
    /// Makes the buffers and fills them.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn load(&mut self, device: &Device, source: &dyn Weights, progress: Progress<'_>) -> Result<()> {
        let weights = |names: &[WeightRef]| names.iter().map(|name| resolve(source, name)).collect::<Result<Vec<_>>>();
        let rows = |matrix: &MatrixRef| Ok(Rows { weights: weights(&matrix.weights)?, order: matrix.order });
        let matrices = self.matrices.iter().map(|(matrix, place)| Ok((rows(matrix)?, place)));
        let matrices = matrices.collect::<Result<Vec<_>>>()?;
        let vectors = self.vectors.iter().map(|(names, region)| Ok((weights(names)?, region)));
        let vectors = vectors.collect::<Result<Vec<_>>>()?;

        let mut pieces = Vec::new();
        for (rows, matrix) in &matrices {
            pieces.extend(matrix.parts.iter().flat_map(|part| Piece::of_part(matrix.format, rows, part)));
        }
        pieces.extend(vectors.iter().map(|(weights, region)| Piece::of_vector(weights, region)));
        self.buffers = upload(device, &self.sizes, pieces, progress)?;
        Ok(())
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
        let format_of = |weight: &WeightRef| {
            let found = source.weight(&weight.name).map(|weight| weight.format);
            found.ok_or_else(|| Error::MissingTensor { tensor: weight.name.clone() })
        };
        let format = format_of(&matrix.weights[0])?;
        for weight in &matrix.weights {
            let found = format_of(weight)?;
            if found != format {
                let what = format!("`{}` is {format}, and `{}` {found}", matrix.weights[0].name, weight.name);
                return Err(Error::Gpu { adapter: self.adapter.into(), what });
            }
        }
        let row_len = matrix.row_len();
        if !row_len.is_multiple_of(GROUP) || !row_len.is_multiple_of(format.block_len) {
            let what = format!("`{}` has rows of {row_len}, not a multiple of {GROUP}", matrix.weights[0].name);
            return Err(Error::Gpu { adapter: self.adapter.into(), what });
        }
        let blocks = row_len / format.block_len;
        let widest = format.planes.iter().map(|plane| plane.block_bytes).max().unwrap_or(1);
        // Kernels take several rows at a time, and need not look whether all of them exist: a part has room for as many.
        // 16 bytes are left for rounding up.
        let most = (self.caps.max_binding_bytes as usize).saturating_sub(16) / (blocks * widest);
        let step = most / ROWS * ROWS;
        if step == 0 {
            return Err(Error::OutOfMemory {
                what: format!("{ROWS} rows of `{}` in one binding", matrix.weights[0].name),
                needed_bytes: (ROWS * blocks * widest) as u64,
                available_bytes: self.caps.max_binding_bytes,
            });
        }
        let n_rows = matrix.n_rows();
        let mut parts = Vec::new();
        for start in (0..n_rows).step_by(step) {
            let rows = start..n_rows.min(start + step);
            let n_blocks = rows.len().next_multiple_of(ROWS) * blocks;
            let planes = format.planes.iter().map(|plane| self.take((n_blocks * plane.block_bytes) as u64));
            let planes = planes.collect::<Result<_>>()?;
            parts.push(Part { rows, planes });
        }
        Ok(Matrix { format, parts })
    }
}
