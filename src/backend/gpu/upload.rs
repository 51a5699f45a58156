//! Fills the weight buffers: threads pack rows from the file's map straight into mapped memory.
//!
//! Where CPU and GPU share memory, that is the buffers themselves. Elsewhere it is a ring of staging buffers which the
//! device copies from, so that the host needs no more than these whatever the size of the model. Pieces are packed in
//! the order of the file, several at a time: while one thread waits for the disk, others pack.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::device::Device;
use super::memory::{Order, Part, Region};
use crate::backend::Progress;
use crate::error::{Error, Result};
use crate::quant::{Format, Weight};

/// Bytes of a staging buffer, and how many there are: one or two are filled while the others are copied.
const STAGING_BYTES: u64 = 8 << 20;
const N_STAGING: usize = 4;
/// Bytes of a piece, at most: small enough to share the work, large enough for its bookkeeping not to count.
const PIECE_BYTES: usize = 2 << 20;
/// Threads that pack. More than these wait for memory.
const MOST_THREADS: usize = 4;
/// Planes of a format, at most.
const MOST_PLANES: usize = 4;

/// Something that is packed at once.
pub(super) struct Piece<'a> {
    what: What<'a>,
    targets: Vec<Target>,
    /// Bytes of all targets.
    bytes: u64,
}

enum What<'a> {
    Rows { format: &'static Format, rows: &'a Rows, range: Range<usize> },
    Vector(&'a [Weight]),
}

/// Where a plane of a piece goes: whole words at a multiple of eight bytes.
#[derive(Clone, Copy)]
struct Target {
    buffer: usize,
    offset: u64,
    bytes: u64,
}

impl<'a> Piece<'a> {
    /// The pieces of a part of a matrix.
    pub(super) fn of_part(format: &'static Format, rows: &'a Rows, part: &Part) -> Vec<Piece<'a>> {
        let blocks = rows.row_len() / format.block_len;
        // Eight rows of any plane are whole units of eight bytes.
        let step = (PIECE_BYTES / rows.row_bytes()).next_multiple_of(8).max(8);
        let piece = |start: usize| {
            let range = start..part.rows.end.min(start + step);
            let target = |(plane, region): (&crate::quant::Plane, &Region)| {
                let row_bytes = blocks * plane.block_bytes;
                let offset = region.offset + ((start - part.rows.start) * row_bytes) as u64;
                // Regions have room for the last word.
                let bytes = ((range.len() * row_bytes) as u64).next_multiple_of(4);
                Target { buffer: region.buffer, offset, bytes }
            };
            let targets = format.planes.iter().zip(&part.planes).map(target).collect();
            Piece::new(What::Rows { format, rows, range: range.clone() }, targets)
        };
        part.rows.clone().step_by(step).map(piece).collect()
    }

    /// Numbers of any format as f32, one weight after another.
    pub(super) fn of_vector(weights: &'a [Weight], region: &Region) -> Piece<'a> {
        let n: usize = weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
        let target = Target { buffer: region.buffer, offset: region.offset, bytes: 4 * n as u64 };
        Piece::new(What::Vector(weights), vec![target])
    }

    fn new(what: What<'a>, targets: Vec<Target>) -> Self {
        let bytes = targets.iter().map(|target| target.bytes).sum();
        Self { what, targets, bytes }
    }

    /// Where in memory its source begins: the order of the file.
    fn address(&self) -> usize {
        match &self.what {
            What::Rows { rows, range, .. } => rows.run(range.start).as_ptr().addr(),
            What::Vector(weights) => weights.first().map_or(0, |weight| weight.bytes.as_ptr().addr()),
        }
    }

    /// Writes the planes, each as long as its target, and reads none of them.
    fn pack(&self, planes: &mut [&mut [u8]]) {
        match &self.what {
            What::Rows { format, rows, range } => pack_rows(format, rows, range, planes),
            What::Vector(weights) => {
                let mut numbers = weights.iter().flat_map(|weight| weight.to_f32());
                for (to, number) in planes[0].as_chunks_mut().0.iter_mut().zip(&mut numbers) {
                    *to = number.to_ne_bytes();
                }
            }
        }
    }

    /// Packs into mapped ranges, one a target.
    fn pack_mapped(&self, mut views: Vec<wgpu::BufferViewMut>) {
        let mut planes: Vec<&mut [u8]> = Vec::with_capacity(MOST_PLANES);
        for (view, target) in views.iter_mut().zip(&self.targets) {
            let first = view.slice(..).as_raw_element_ptr();
            // SAFETY: the view borrows `target.bytes` bytes of mapped, initialized memory that nobody else refers to until it
            // is dropped, after this slice. It is not read: packing only stores, and with plain stores, as memory that
            // combines writes demands.
            planes.push(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), target.bytes as usize) });
        }
        self.pack(&mut planes);
    }
}

fn pack_rows(format: &Format, rows: &Rows, range: &Range<usize>, planes: &mut [&mut [u8]]) {
    let (blocks, row_bytes) = (rows.row_len() / format.block_len, rows.row_bytes());
    let mut row = range.start;
    while row < range.end {
        let run = rows.run(row);
        let n = (run.len() / row_bytes).min(range.end - row);
        let mut parts: [&mut [u8]; MOST_PLANES] = Default::default();
        for ((part, plane), to) in parts.iter_mut().zip(format.planes).zip(planes.iter_mut()) {
            let bytes = blocks * plane.block_bytes;
            *part = &mut to[(row - range.start) * bytes..][..n * bytes];
        }
        (format.pack)(&run[..n * row_bytes], &mut parts[..format.planes.len()]);
        row += n;
    }
}

/// The rows of a matrix in the order in which it has them.
pub(super) struct Rows {
    pub weights: Vec<Weight>,
    pub order: Order,
}

impl Rows {
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
            Order::Pairs => {
                let of_pair = 2 * self.weights[0].n_rows();
                let (pair, row) = (row / of_pair, row % of_pair);
                &self.weights[2 * pair + row % 2].bytes[row / 2 * row_bytes..][..row_bytes]
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
}

/// Makes buffers of these sizes and fills them with the pieces.
///
/// # Errors
/// If the device has no room, or fails.
pub(super) fn upload(
    device: &Device,
    sizes: &[u64],
    mut pieces: Vec<Piece<'_>>,
    progress: Progress<'_>,
) -> Result<Vec<wgpu::Buffer>> {
    pieces.sort_by_key(Piece::address);
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let mut done = 0;
    let mut advance = |bytes| {
        done += bytes;
        progress(done, total);
    };
    advance(0);
    if device.caps.mapped {
        into_mapped(device, sizes, &pieces, &mut advance)
    } else {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let make = |&size| device.buffer("weights", size, usage);
        let buffers: Vec<_> = sizes.iter().map(make).collect::<Result<_>>()?;
        through_staging(device, &buffers, &pieces, &mut advance)?;
        Ok(buffers)
    }
}

fn n_threads(n_jobs: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(n_jobs)
}

/// Packs into the buffers themselves.
fn into_mapped(
    device: &Device,
    sizes: &[u64],
    pieces: &[Piece<'_>],
    advance: &mut dyn FnMut(u64),
) -> Result<Vec<wgpu::Buffer>> {
    let (next, arenas) = (AtomicUsize::new(0), Arenas::new(device, sizes));
    let work = |sender: Sender<u64>| {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed))
            && let Some(views) = piece.targets.iter().map(|target| arenas.view(target)).collect()
        {
            piece.pack_mapped(views);
            // The receiver lives as long as this thread.
            let _ = sender.send(piece.bytes);
        }
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for _ in 0..n_threads(pieces.len()) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        receiver.into_iter().for_each(advance);
    });
    arenas.finish()
}

/// Mapped buffers, made when they are needed. They come filled with zeros, which takes as long as packing does: so who
/// waits for one makes another one meanwhile.
struct Arenas<'a> {
    device: &'a Device,
    sizes: &'a [u64],
    made: Vec<OnceLock<Option<wgpu::Buffer>>>,
    next: AtomicUsize,
    failure: OnceLock<Error>,
}

impl<'a> Arenas<'a> {
    fn new(device: &'a Device, sizes: &'a [u64]) -> Self {
        let made = sizes.iter().map(|_| OnceLock::new()).collect();
        Self { device, sizes, made, next: AtomicUsize::new(0), failure: OnceLock::new() }
    }

    /// A buffer; `None` if that one or another one failed.
    fn get(&self, i: usize) -> Option<&wgpu::Buffer> {
        while self.made[i].get().is_none() {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            if next >= self.sizes.len() {
                break;
            }
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::MAP_WRITE;
            let make = || self.ok(self.device.mapped_buffer("weights", self.sizes[next], usage));
            self.made[next].get_or_init(|| if self.failure.get().is_none() { make() } else { None });
        }
        self.made[i].wait().as_ref()
    }

    fn view(&self, target: &Target) -> Option<wgpu::BufferViewMut> {
        self.ok(view(self.device, self.get(target.buffer)?, target.offset, target.bytes))
    }

    /// Keeps the first failure.
    fn ok<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| drop(self.failure.set(error))).ok()
    }

    fn finish(self) -> Result<Vec<wgpu::Buffer>> {
        for i in 0..self.sizes.len() {
            let _ = self.get(i);
        }
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => {
                Ok(self.made.into_iter().filter_map(OnceLock::into_inner).flatten().inspect(|b| b.unmap()).collect())
            }
        }
    }
}

fn view(device: &Device, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<wgpu::BufferViewMut> {
    buffer.get_mapped_range_mut(offset..offset + bytes).map_err(|e| device.error(e))
}

/// Pieces that fit a staging buffer together.
fn batches<'p, 'a>(pieces: &'p [Piece<'a>], room: u64) -> Vec<&'p [Piece<'a>]> {
    let (mut batches, mut start, mut used) = (Vec::new(), 0, 0);
    for (i, piece) in pieces.iter().enumerate() {
        let bytes = staged_bytes(piece);
        if used + bytes > room && i > start {
            batches.push(&pieces[start..i]);
            (start, used) = (i, 0);
        }
        used += bytes;
    }
    batches.push(&pieces[start..]);
    batches
}

/// Bytes of a piece in a staging buffer, where each plane begins at a unit of mapping.
fn staged_bytes(piece: &Piece<'_>) -> u64 {
    piece.targets.iter().map(|target| target.bytes.next_multiple_of(wgpu::MAP_ALIGNMENT)).sum()
}

/// Packs into staging buffers by turns: while the device empties some, others are filled.
fn through_staging(
    device: &Device,
    buffers: &[wgpu::Buffer],
    pieces: &[Piece<'_>],
    advance: &mut dyn FnMut(u64),
) -> Result<()> {
    let room = pieces.iter().map(staged_bytes).max().unwrap_or(0).max(STAGING_BYTES);
    let batches = batches(pieces, room);
    let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
    let (packed_sender, packed) = channel();
    let (free_sender, free) = channel();
    let n_staging = N_STAGING.min(batches.len());
    for _ in 0..n_staging {
        // The receiver lives to the end of this function.
        let _ = free_sender.send(device.mapped_buffer("staging", room, usage)?);
    }
    let (free, next, stop) = (Mutex::new(free), AtomicUsize::new(0), AtomicBool::new(false));
    let work = |sender: Sender<_>| {
        // A buffer first: whoever has none must not keep a batch from the others.
        while let Some(staging) = take(&free, &stop)
            && let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let packed = pack_staged(device, &staging, batch);
            if sender.send(packed.map(|()| (staging, *batch))).is_err() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..n_threads(batches.len()) {
            let sender = packed_sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(packed_sender);
        let mut in_flight = std::collections::VecDeque::new();
        let result = packed.iter().take(batches.len()).try_for_each(|packed| {
            let (staging, batch): (wgpu::Buffer, &[Piece<'_>]) = packed?;
            in_flight.push_back(copy(device, &staging, batch, buffers));
            advance(batch.iter().map(|piece| piece.bytes).sum());
            let sender = free_sender.clone();
            let again = staging.clone();
            staging.map_async(wgpu::MapMode::Write, .., move |mapped| {
                // On an error the device is lost, which is found out below.
                drop(mapped.map(|()| sender.send(again)));
            });
            // With half of the ring under way the packers have the other half; older copies are waited for.
            while in_flight.len() > n_staging / 2 {
                device.wait_for(in_flight.pop_front())?;
            }
            device.check()
        });
        // Packers that wait for a buffer which a broken device never gives back end too.
        stop.store(true, Ordering::Relaxed);
        drop(packed);
        result.and(device.wait())
    })
}

/// The next buffer that the device is done with.
fn take(free: &Mutex<Receiver<wgpu::Buffer>>, stop: &AtomicBool) -> Option<wgpu::Buffer> {
    let free = free.lock().unwrap_or_else(PoisonError::into_inner);
    while !stop.load(Ordering::Relaxed) {
        match free.recv_timeout(Duration::from_millis(20)) {
            Ok(buffer) => return Some(buffer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    None
}

/// Packs a batch into a mapped staging buffer, from its beginning on.
fn pack_staged(device: &Device, staging: &wgpu::Buffer, batch: &[Piece<'_>]) -> Result<()> {
    let mut at = 0;
    for piece in batch {
        let mut views = Vec::with_capacity(MOST_PLANES);
        for target in &piece.targets {
            views.push(view(device, staging, at, target.bytes)?);
            at += target.bytes.next_multiple_of(wgpu::MAP_ALIGNMENT);
        }
        piece.pack_mapped(views);
    }
    Ok(())
}

/// Lets the device copy a batch to where it belongs.
fn copy(
    device: &Device,
    staging: &wgpu::Buffer,
    batch: &[Piece<'_>],
    buffers: &[wgpu::Buffer],
) -> wgpu::SubmissionIndex {
    staging.unmap();
    let mut encoder = device.device.create_command_encoder(&Default::default());
    let mut at = 0;
    for target in batch.iter().flat_map(|piece| &piece.targets) {
        encoder.copy_buffer_to_buffer(staging, at, &buffers[target.buffer], target.offset, target.bytes);
        at += target.bytes.next_multiple_of(wgpu::MAP_ALIGNMENT);
    }
    device.queue.submit([encoder.finish()])
}
