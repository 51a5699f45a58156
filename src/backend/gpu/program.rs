//! A graph compiled for a GPU: buffers, pipelines and bind groups made once, calls replayed each step.
//!
//! There are lists of calls: for one row; and for many rows the body (what runs over the step's rows) and the head (what
//! runs over the output rows, one or many). A step writes its inputs, plays these in one pass, submits once and reads back; a
//! step that would keep the device busy for too long is cut into several submissions, and a prompt into several runs of
//! fewer rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::KvFormat;
use super::attention;
use super::cost::{Cost, Span};
use super::device::{Device, DeviceOptions};
use super::experts::Route;
use super::fold;
use super::fuse::{self, Fused};
use super::inputs::Inputs;
use super::kernels::{Bind, Call, Lower, Mode, Shape};
use super::matvec::Decode;
use super::memory::{self, MatrixRef, WeightMemory};
use super::pace::{self, Flights, Pace};
use super::pipeline::{Kernel, Pipelines};
use super::profile::Profiler;
use super::readback::{MAX_IN_FLIGHT, Readback};
use super::record::{Counters, Player, Recorded};
use super::{Options, denormals, fuse::Node, matrix};
use crate::backend::{
    CHOSEN, Info, Limits, Memory, Output, PAGE_LEN, Profile, Program, Progress, Step, Ticket, Want, Weights, check_step,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, Rows, WeightRef};

const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE;

/// A compiled graph on a GPU.
pub struct GpuProgram {
    device: Arc<Device>,
    graph: Graph,
    limits: Limits,
    memory: Memory,
    fused: Fused,
    keep_tensors: bool,
    inputs: Inputs,
    /// Slot of each tensor.
    slots: Vec<usize>,
    values: Vec<wgpu::Buffer>,
    chosen: wgpu::Buffer,
    readback: Readback,
    /// Body and head for one row.
    decode: Vec<Recorded>,
    n_decode_body: usize,
    body: Vec<Recorded>,
    head: [Vec<Recorded>; 2],
    argmax: Vec<Recorded>,
    draw: Vec<Recorded>,
    last: Counters,
    /// Rows and output rows of the last step.
    last_rows: [usize; 2],
    /// Rows up to which a step has other kernels, with other roundings, than a prompt.
    few_rows: usize,
    /// Tensors that are not made where these are 1 row.
    not_of_one: Vec<usize>,
    /// Compiles until it is dropped.
    pipelines: Pipelines,
    pace: Pace,
    flights: Flights,
    expect_results: bool,
    profiler: Option<Profiler>,
}

/// Compiles `graph` for the adapter that `options` names.
///
/// The limits of the result may be lower than asked for, where a binding of the device is too small for more rows.
///
/// # Errors
/// If there is no such adapter, a tensor is missing, or the device has no room.
pub fn compile(
    graph: &Graph,
    weights: &dyn Weights,
    limits: Limits,
    options: &Options,
    progress: Progress<'_>,
) -> Result<GpuProgram> {
    let device_options = DeviceOptions { timestamps: options.profile, ..options.device.clone() };
    let device = Device::open(&device_options)?;
    let fused = fused(graph, weights, device.caps.max_bindings as usize, options);
    let limits = fit_limits(&device, graph, &fused, limits)?;
    let (matrices, vectors) = used_weights(&fused);
    let device = Arc::new(prove(device, &device_options, weights, &fused)?);
    let memory = WeightMemory::plan(&device.caps, &device.info.name, weights, &matrices, &vectors)?;
    Builder { device, graph, limits, fused, weights: memory, options }.build(weights, progress)
}

/// The nodes of `graph`: one an op, or as few as the kernels allow.
pub(super) fn fused(graph: &Graph, weights: &dyn Weights, max_bindings: usize, options: &Options) -> Fused {
    let same_format = |a: &WeightRef, b: &WeightRef| match (weights.weight(&a.name), weights.weight(&b.name)) {
        (Some(a), Some(b)) => a.format == b.format,
        _ => false,
    };
    if !options.fuse {
        return fuse::plain(graph);
    }
    let mut fused = fuse::fuse(graph, &same_format, max_bindings);
    // A norm that is gone leaves no tensor of its own, and a kernel that makes its sums binds four buffers more.
    if !options.keep_tensors && max_bindings >= 12 {
        fold::fold(&mut fused);
    }
    fused
}

/// The device, of which was tested what no query tells: its cooperative matrices, with the format of the first matmul, and
/// whether it keeps f16 denormals.
fn prove(device: Device, options: &DeviceOptions, weights: &dyn Weights, fused: &Fused) -> Result<Device> {
    let first = fused.nodes.iter().find_map(|node| match node {
        Node::MatMul { matrix, .. } => Some(&matrix.weights[0]),
        _ => None,
    });
    let mut device = match first {
        Some(weight) => matrix::prove(device, options, memory::resolve(weights, weight)?.format)?,
        None => device,
    };
    denormals::prove(&mut device);
    Ok(device)
}

/// The limits, lowered to what fits one binding of the device.
fn fit_limits(device: &Device, graph: &Graph, fused: &Fused, limits: Limits) -> Result<Limits> {
    let binding = device.caps.max_binding_bytes as usize;
    let fit = |what: &str, unit: usize, asked: usize, least: usize| {
        let most = binding / unit.max(1);
        if most >= least { Ok(asked.min(most)) } else { Err(out_of_binding(device, what, unit * least)) }
    };
    let widest = |rows| fused.tensors.iter().filter(|t| t.rows == rows).map(|t| 4 * t.width).max().unwrap_or(4);
    let max_rows = fit("a row of intermediate results", widest(Rows::Step), limits.max_rows, 1)?;
    let max_outputs = fit("a row of logits", widest(Rows::Output), limits.max_outputs, 1)?;
    for shape in &graph.kv {
        // Keys and values of a layer are a binding each, in f32 at most.
        let page = 4 * PAGE_LEN * shape.n_head_kv * shape.head_dim;
        fit("the KV cache of a layer", page, limits.n_pages, limits.n_pages)?;
    }
    // A grid has no more workgroups in a dimension.
    Ok(Limits { max_rows: max_rows.min(65_535), max_outputs, ..limits })
}

fn out_of_binding(device: &Device, what: &str, needed: usize) -> Error {
    Error::OutOfMemory {
        what: format!("{what} in one binding of {}", device.info.name),
        needed_bytes: needed as u64,
        available_bytes: device.caps.max_binding_bytes,
    }
}

/// Matrices and vectors that the nodes read.
pub(super) fn used_weights(fused: &Fused) -> (Vec<MatrixRef>, Vec<Vec<WeightRef>>) {
    let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
    for node in &fused.nodes {
        match node {
            Node::Embed { table, .. } => matrices.push(table.clone()),
            Node::MatMul { matrix, bias, .. } => {
                matrices.push(matrix.clone());
                vectors.extend((!bias.is_empty()).then(|| bias.clone()));
            }
            Node::ExpertMatMul(node) => {
                matrices.push(node.matrix.clone());
                vectors.extend((!node.bias.is_empty()).then(|| node.bias.clone()));
            }
            Node::RmsNorm { weight, .. } => vectors.push(vec![weight.clone()]),
            Node::RopeKv { norms: Some((weights, _)), .. } => vectors.push(weights.to_vec()),
            Node::Attention { sinks: Some(sinks), .. } => vectors.push(vec![sinks.clone()]),
            Node::Route(Route { bias: Some(bias), .. }) => vectors.push(vec![bias.clone()]),
            _ => {}
        }
    }
    // Two matmuls of the same input may run as one, with all their biases.
    for pair in fused.nodes.windows(2) {
        if let [Node::MatMul { x: a, bias, .. }, Node::MatMul { x: b, bias: more, .. }] = pair
            && a == b
            && !bias.is_empty()
            && !more.is_empty()
        {
            vectors.push(bias.iter().chain(more).cloned().collect());
        }
    }
    (matrices, vectors)
}

/// Tensor → slot, and the width of each slot. A slot is free again after the last node that reads its tensor.
fn assign_slots(fused: &Fused, keep: bool) -> (Vec<usize>, Vec<(Rows, usize)>) {
    let mut last = vec![0; fused.tensors.len()];
    for (i, node) in fused.nodes.iter().enumerate() {
        let (reads, writes) = node.tensors();
        for tensor in reads.into_iter().chain(writes).chain(fused.written(i)) {
            last[tensor] = i;
            // Of one row, what reads a folded norm reads its sums.
            if let Some(fold) = fused.folds.iter().find(|fold| fused.nodes[fold.norm].tensors().1 == Some(tensor)) {
                last[fold.parts] = i;
            }
        }
    }
    // Attention to one row reads what `RopeKv` would have read.
    for node in &fused.nodes {
        if let Node::RopeKv { q, k, v, y, .. } = node {
            for view in [q, k, v] {
                last[view.tensor] = last[view.tensor].max(last[*y]);
            }
        }
    }
    last[fused.logits] = usize::MAX;
    let mut slots: Vec<(Rows, usize)> = Vec::new();
    let mut of = vec![usize::MAX; fused.tensors.len()];
    let mut free_after: Vec<usize> = Vec::new();
    for i in 0..fused.nodes.len() {
        for y in fused.written(i) {
            if of[y] != usize::MAX {
                continue;
            }
            let kind = (fused.tensors[y].rows, fused.tensors[y].width);
            // A tensor that node i reads for the last time is still bound while i writes.
            let reuse = (0..slots.len()).find(|&s| !keep && slots[s] == kind && free_after[s] < i);
            let slot = reuse.unwrap_or_else(|| {
                slots.push(kind);
                free_after.push(0);
                slots.len() - 1
            });
            free_after[slot] = last[y];
            of[y] = slot;
        }
    }
    (of, slots)
}

/// All calls of a program, by what runs when: for one row and for many, over the step's rows and over the output rows.
pub(super) struct Lists {
    decode: Decode,
    body: Vec<Call>,
    head: [Vec<Call>; 2],
    argmax: Vec<Call>,
    draw: Vec<Call>,
}

impl Lists {
    pub(super) fn new(lower: &Lower<'_>) -> Self {
        let modes = [Mode::One, Mode::Many];
        Self {
            decode: lower.decode(),
            body: lower.section(Rows::Step, Mode::Many),
            head: modes.map(|mode| lower.section(Rows::Output, mode)),
            argmax: lower.argmax(),
            draw: lower.draw(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Call> {
        [&self.decode.calls, &self.body].into_iter().chain(&self.head).chain([&self.argmax, &self.draw]).flatten()
    }

    /// All calls, in the order in which a prompt and then single tokens need them.
    fn in_order(&self) -> impl Iterator<Item = &Call> {
        let [one_output, many_outputs] = &self.head;
        let lists = [&self.body, one_output, &self.argmax, &self.decode.calls, &self.draw, many_outputs];
        lists.into_iter().flatten()
    }
}

struct Builder<'a> {
    device: Arc<Device>,
    graph: &'a Graph,
    limits: Limits,
    fused: Fused,
    weights: WeightMemory,
    options: &'a Options,
}

/// What bind groups are made of.
struct Buffers {
    inputs: Inputs,
    slots: Vec<usize>,
    values: Vec<wgpu::Buffer>,
    keys: Vec<wgpu::Buffer>,
    kv_values: Vec<wgpu::Buffer>,
    candidates: wgpu::Buffer,
    chosen: wgpu::Buffer,
    partials: wgpu::Buffer,
    sorted: wgpu::Buffer,
    shapes: Shapes,
}

/// Bytes of the buffers that all layers use, one after the other.
struct LayerScratch {
    /// For each output row.
    candidates: usize,
    partials: usize,
    sorted: usize,
}

impl LayerScratch {
    fn of(lower: &Lower<'_>) -> Self {
        Self {
            candidates: lower.candidates_bytes(),
            partials: attention::partials_bytes(lower.graph, lower.limits.max_rows, lower.limits.n_ctx),
            sorted: lower.sorted_bytes(),
        }
    }
}

impl Builder<'_> {
    fn build(mut self, source: &dyn Weights, progress: Progress<'_>) -> Result<GpuProgram> {
        let kv = self.options.kv;
        let (caps, limits) = (&self.device.caps, &self.limits);
        let lower = Lower { graph: self.graph, fused: &self.fused, caps, weights: &self.weights, limits, kv };
        let (lists, shared) = (Lists::new(&lower), LayerScratch::of(&lower));
        let (not_of_one, few_rows) = (lower.folded(), lower.few_rows());
        // Kernels are compiled while weights are loaded, those of a prompt first.
        let mut pipelines = Pipelines::new(&self.device, self.options.checked, self.options.pipeline_cache.as_deref());
        let kernels: HashMap<_, _> =
            lists.in_order().map(|call| (&call.key, pipelines.kernel(&call.key, &self.bound(call)))).collect();
        pipelines.start()?;
        self.weights.load(&self.device, source, progress)?;

        let (buffers, mut memory) = self.buffers(kv, shared, lists.iter())?;
        let readback = Readback::new(&self.device, &self.limits, self.graph.n_vocab)?;
        memory.scratch_bytes += readback.bytes();
        memory.weights_bytes = self.weights.bytes;

        let record = |calls: &[Call]| -> Vec<Recorded> {
            calls.iter().map(|call| self.record(call, &kernels[&call.key], &buffers)).collect()
        };
        let profiler = if self.options.profile { Some(Profiler::new(&self.device, &mut pipelines)?) } else { None };
        let program = GpuProgram {
            decode: record(&lists.decode.calls),
            n_decode_body: lists.decode.n_body,
            body: record(&lists.body),
            head: lists.head.each_ref().map(|calls| record(calls)),
            argmax: record(&lists.argmax),
            draw: record(&lists.draw),
            graph: self.graph.clone(),
            limits: self.limits,
            memory,
            keep_tensors: self.options.keep_tensors,
            inputs: buffers.inputs,
            slots: buffers.slots,
            values: buffers.values,
            chosen: buffers.chosen,
            readback,
            last: Counters::default(),
            last_rows: [0, 0],
            few_rows,
            not_of_one,
            pipelines,
            pace: Pace::new(self.options.submission_budget.unwrap_or(pace::budget(&self.device.caps))),
            flights: Flights::default(),
            expect_results: self.options.expect_results,
            profiler,
            fused: self.fused,
            device: self.device,
        };
        program.device.check()?;
        Ok(program)
    }

    fn buffers<'c>(
        &self,
        kv: KvFormat,
        shared: LayerScratch,
        calls: impl Iterator<Item = &'c Call>,
    ) -> Result<(Buffers, Memory)> {
        let mut memory = Memory::default();
        let make = |label: &str, bytes: usize, usage: wgpu::BufferUsages, total: &mut u64| {
            let size = (bytes as u64).next_multiple_of(16).max(16);
            *total += size;
            self.device.buffer(label, size, usage)
        };
        let (slots, kinds) = assign_slots(&self.fused, self.options.keep_tensors);
        let mut values = Vec::new();
        for (rows, width) in kinds {
            let n = if rows == Rows::Step { self.limits.max_rows } else { self.limits.max_outputs };
            let usage = STORAGE | wgpu::BufferUsages::COPY_SRC;
            values.push(make("values", 4 * n * width, usage, &mut memory.scratch_bytes)?);
        }
        let (mut keys, mut kv_values) = (Vec::new(), Vec::new());
        for shape in &self.graph.kv {
            let bytes = kv.head_bytes(shape.head_dim) * shape.n_head_kv * PAGE_LEN * self.limits.n_pages;
            keys.push(make("keys", bytes, STORAGE, &mut memory.kv_bytes)?);
            kv_values.push(make("values", bytes, STORAGE, &mut memory.kv_bytes)?);
        }
        let usage = STORAGE | wgpu::BufferUsages::COPY_SRC;
        let n = self.limits.max_outputs;
        let chosen = make("chosen", 4 * n, usage, &mut memory.scratch_bytes)?;
        let candidates = make("candidates", shared.candidates * n, STORAGE, &mut memory.scratch_bytes)?;
        let partials = make("partials", shared.partials, STORAGE, &mut memory.scratch_bytes)?;
        let sorted = make("sorted", shared.sorted, STORAGE, &mut memory.scratch_bytes)?;
        let inputs = Inputs::new(&self.device, self.graph, &self.limits)?;
        memory.scratch_bytes += inputs.buffer.size();
        let shapes = Shapes::new(&self.device, calls)?;
        memory.scratch_bytes += shapes.buffer.size();
        Ok((Buffers { inputs, slots, values, keys, kv_values, candidates, chosen, partials, sorted, shapes }, memory))
    }

    /// Numbers of the bindings that a call fills, group by group.
    fn bound(&self, call: &Call) -> Vec<Vec<u32>> {
        let values = call.binds.iter().map(|(binding, _)| *binding).collect();
        let planes = call.matrix.as_ref().map(|(matrix, _)| self.weights.matrix(matrix).format.planes.len() as u32);
        std::iter::once(values).chain(planes.map(|n| (0..n).collect())).collect()
    }

    fn record(&self, call: &Call, kernel: &Kernel, buffers: &Buffers) -> Recorded {
        let entries: Vec<_> = call
            .binds
            .iter()
            .map(|(binding, bind)| wgpu::BindGroupEntry { binding: *binding, resource: self.resource(bind, buffers) })
            .collect();
        let group = |index: usize, entries: &[wgpu::BindGroupEntry<'_>]| {
            self.device.count();
            self.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(call.key.kernel),
                layout: kernel.group_layout(index),
                entries,
            })
        };
        let weights = call.matrix.as_ref().map(|(matrix, part)| {
            let planes = self.weights.planes(&self.weights.matrix(matrix).parts[*part]);
            let entries: Vec<_> =
                (0..).zip(planes).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            group(1, &entries)
        });
        let groups = [Some(group(0, &entries)), weights];
        let cost = Cost::of(call, self.graph, &self.fused, &self.weights, self.options.kv);
        Recorded { groups, grid: call.grid, kernel: kernel.clone(), cost }
    }

    fn resource<'b>(&'b self, bind: &Bind, buffers: &'b Buffers) -> wgpu::BindingResource<'b> {
        match bind {
            Bind::Tensor(tensor) => buffers.values[buffers.slots[*tensor]].as_entire_binding(),
            Bind::Vector(names) => self.weights.vector(names),
            Bind::Keys(layer) => buffers.keys[*layer].as_entire_binding(),
            Bind::Values(layer) => buffers.kv_values[*layer].as_entire_binding(),
            Bind::Step => buffers.inputs.binding(buffers.inputs.step),
            Bind::Rows => buffers.inputs.binding(buffers.inputs.rows),
            Bind::Outputs => buffers.inputs.binding(buffers.inputs.outputs),
            Bind::Tables => buffers.inputs.binding(buffers.inputs.tables),
            Bind::Angles(rope) => buffers.inputs.binding(buffers.inputs.angles[*rope]),
            Bind::Shape(shape) => buffers.shapes.binding(shape),
            Bind::Draws => buffers.inputs.binding(buffers.inputs.draws),
            Bind::Candidates => buffers.candidates.as_entire_binding(),
            Bind::Chosen => buffers.chosen.as_entire_binding(),
            Bind::Plane(matrix, part, plane) => {
                let part = &self.weights.matrix(matrix).parts[*part];
                self.weights.planes(part).nth(*plane).unwrap_or_else(|| panic!("no plane {plane}"))
            }
            Bind::Partials => buffers.partials.as_entire_binding(),
            Bind::Sorted => buffers.sorted.as_entire_binding(),
        }
    }
}

/// The sizes of all matmuls, written once.
struct Shapes {
    buffer: wgpu::Buffer,
    all: Vec<Shape>,
    stride: u64,
}

impl Shapes {
    fn new<'a>(device: &Device, calls: impl Iterator<Item = &'a Call>) -> Result<Self> {
        let mut all = Vec::new();
        for (_, bind) in calls.flat_map(|call| &call.binds) {
            if let Bind::Shape(shape) = bind
                && !all.contains(shape)
            {
                all.push(*shape);
            }
        }
        let stride = device.caps.offset_alignment;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = device.buffer("shapes", stride * all.len().max(1) as u64, usage)?;
        for (i, shape) in (0..).zip(&all) {
            device.queue.write_buffer(&buffer, i * stride, bytemuck::bytes_of(shape));
        }
        Ok(Self { buffer, all, stride })
    }

    fn binding(&self, shape: &Shape) -> wgpu::BindingResource<'_> {
        let i =
            self.all.iter().position(|known| known == shape).unwrap_or_else(|| panic!("{shape:?} was not collected"));
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: i as u64 * self.stride,
            size: wgpu::BufferSize::new(size_of::<Shape>() as u64),
        })
    }
}

impl GpuProgram {
    /// Submits a step, in one piece.
    fn submit_whole(&mut self, step: &Step<'_>) -> Result<Ticket> {
        let (device, created, start) = (&self.device, self.device.created(), Instant::now());
        // Queued before this step's commands and behind those of the steps under way, which read what they were given.
        let writes = self.inputs.write(&device.queue, &self.graph, step, self.readback.next_stamp());
        let (n_rows, n_outputs, want) = (step.rows.len(), step.outputs.len(), step.want);
        let (inputs, readback) = (&self.inputs, &self.readback);
        let seal = |encoder: &mut wgpu::CommandEncoder, i: usize| {
            readback.stamp(encoder, want, i, &inputs.buffer, inputs.stamp_offset());
        };
        let mut player = Player::new(device, self.pace.room(n_rows), &seal, self.profiler.as_mut());
        let wants_output = want != Want::Nothing && n_outputs > 0;
        let body = match (n_rows, wants_output) {
            (1, true) => &self.decode,
            (1, false) => &self.decode[..self.n_decode_body],
            _ => &self.body[..],
        };
        player.play(body, Span { n: n_rows, rows: step.rows });
        if wants_output {
            let span = Span { n: n_outputs, rows: step.rows };
            if n_rows > 1 {
                player.play(&self.head[usize::from(n_outputs > 1)], span);
            }
            let choice: &[Recorded] = match want {
                Want::Argmax => &self.argmax,
                Want::Draw(_) => &self.draw,
                Want::Nothing | Want::Logits => &[],
            };
            player.play(choice, span);
        }
        let logits = &self.values[self.slots[self.fused.logits]];
        let (counters, submission) = player.finish(|encoder| {
            readback.copy(encoder, want, n_outputs, [&self.chosen, logits]);
        });
        self.flights.begin(start, n_rows, counters.ops);
        self.last.add(Counters {
            created: device.created() - created,
            host_ns: start.elapsed().as_nanos() as u64,
            writes,
            ..counters
        });
        self.last_rows = [n_rows, n_outputs];
        Ok(self.readback.submitted(want, n_outputs, counters.submits as usize, submission))
    }

    /// Runs the first rows of a step of which all at once would keep the device busy for too long, piece by piece; returns how
    /// many. None of them is an output row, the next step sees no difference, and nobody waits for one under way.
    fn run_ahead_of_outputs(&mut self, step: &Step<'_>) -> Result<usize> {
        let mut done = 0;
        if self.keep_tensors || !self.flights.is_empty() || step.rows.iter().any(|row| row.token >= CHOSEN) {
            return Ok(done);
        }
        let first_output = step.outputs.first().map_or(usize::MAX, |&i| i as usize);
        loop {
            let rest = &step.rows[done..];
            let last_pos = rest.iter().map(|row| row.pos).max().unwrap_or(0);
            let largest = self.body.iter().map(|call| call.cost.ops_of_row(last_pos)).max().unwrap_or(0);
            let n = self.pace.rows(rest.len(), largest, self.few_rows);
            if n == rest.len() || done + n > first_output {
                return Ok(done);
            }
            let piece = Step { rows: &rest[..n], outputs: &[], want: Want::Nothing, ..*step };
            let ticket = self.submit_whole(&piece)?;
            self.finish(ticket)?;
            done += n;
        }
    }
}

impl Program for GpuProgram {
    fn run(&mut self, step: &Step<'_>) -> Result<Output> {
        let ticket = self.submit(step)?;
        self.finish(ticket)
    }

    fn max_in_flight(&self) -> usize {
        if self.profiler.is_some() { 1 } else { MAX_IN_FLIGHT }
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        self.device.check()?;
        self.pipelines.go_to_work();
        check_step(step, &self.graph, &self.limits);
        self.last = Counters::default();
        let done = self.run_ahead_of_outputs(step)?;
        if done == 0 {
            return self.submit_whole(step);
        }
        let outputs: Vec<u32> = step.outputs.iter().map(|i| i - done as u32).collect();
        self.submit_whole(&Step { rows: &step.rows[done..], outputs: &outputs, ..*step })
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Output> {
        let output = self.readback.finish(&self.device, &ticket, self.expect_results)?;
        if let Some((n_rows, ops, took)) = self.flights.end(Instant::now()) {
            self.pace.measured(n_rows, ops, took);
            if let Some(profiler) = &mut self.profiler {
                profiler.count(n_rows, took)?;
            }
        }
        Ok(output)
    }

    fn profile(&mut self) -> Option<Profile> {
        self.profiler.as_mut().map(Profiler::take)
    }

    fn tensor(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.graph.find(name) else { return Ok(None) };
        let tensor = self.fused.tensors.iter().position(|t| t.value == Some(value));
        let was_made = |tensor: &usize| self.last_rows[0] != 1 || !self.not_of_one.contains(tensor);
        let Some(tensor) = tensor.filter(|tensor| self.keep_tensors && was_made(tensor)) else { return Ok(None) };
        let kind = &self.fused.tensors[tensor];
        let n = self.last_rows[usize::from(kind.rows == Rows::Output)];
        let bytes = 4 * (n * kind.width) as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("tensor", bytes.max(16), usage)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.values[self.slots[tensor]], 0, &buffer, 0, bytes);
        self.device.queue.submit([encoder.finish()]);
        buffer.map_async(wgpu::MapMode::Read, .., |_| ());
        self.device.wait()?;
        let view = buffer.get_mapped_range(..bytes).map_err(|e| self.device.error(e))?;
        Ok(Some(bytemuck::pod_collect_to_vec(&view)))
    }

    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn info(&self) -> Info {
        let Counters { dispatches, submits, passes, writes, created, host_ns, .. } = self.last;
        Info {
            device: format!("{} ({})", self.device.info.name, self.device.info.backend),
            memory: self.memory,
            notes: vec![self.device.matrices.clone()],
            counters: vec![
                ("dispatches", dispatches),
                ("submits", submits),
                ("passes", passes),
                ("writes", writes),
                ("created", created),
                ("host_ns", host_ns),
            ],
        }
    }
}
