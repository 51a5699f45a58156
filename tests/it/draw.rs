//! Tokens chosen on the device: the same ones as the sampler on the host draws from the same logits, always.
//!
//! A case is a graph that gives chosen logits: its table has one-hot rows, so that each row of a step picks a column of
//! its output matrix, and a bias brings in what is not finite.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use halfbyte::backend::{CHOSEN, Draw, Limits, MAX_TOP_K, Output, Program, Row, Step, Ticket, Want, Weights, cpu, gpu};
use halfbyte::engine::{Sampler, SamplerOptions};
use halfbyte::graph::{Graph, GraphBuilder};
use halfbyte::quant::{SharedBytes, Weight};

use crate::common::Random;
use crate::golden;
use crate::ops::format;

/// Rows of logits in a case, of which each has another shape.
const N: usize = 9;
/// Width of the one-hot rows.
const K: usize = 32;

struct Case {
    weights: HashMap<String, Weight>,
    graph: Graph,
}

impl Weights for Case {
    fn weight(&self, name: &str) -> Option<Weight> {
        self.weights.get(name).cloned()
    }
}

fn weight(shape: &[usize], numbers: &[f32]) -> Weight {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    Weight { shape: shape.to_vec(), format: format("F32"), bytes: SharedBytes::new(Arc::new(bytes)) }
}

impl Case {
    /// Rows of logits that are `logit(row, id)`, and to all of them the bias, if there is one.
    fn new(n_vocab: usize, logit: &mut dyn FnMut(usize, usize) -> f32, bias: Option<Vec<f32>>) -> Self {
        let (mut table, mut output) = (vec![0.0; n_vocab * K], vec![0.0; n_vocab * K]);
        for i in 0..n_vocab.min(N) {
            table[i * K + i] = 1.0;
        }
        for row in 0..n_vocab.min(N) {
            (0..n_vocab).for_each(|id| output[id * K + row] = logit(row, id));
        }
        let mut weights = HashMap::from([
            ("x.weight".into(), weight(&[n_vocab, K], &table)),
            ("output.weight".into(), weight(&[n_vocab, K], &output)),
        ]);
        weights.extend(bias.map(|bias| ("output.bias".into(), weight(&[n_vocab], &bias))));
        let shapes = |name: &str| weights.get(name).map(|w: &Weight| w.shape.clone());
        let g = GraphBuilder::new("draws", &shapes);
        let logits = g.matmul("output", g.output_rows(g.embed("x", n_vocab, K, 1.0)), n_vocab);
        let graph = g.finish(logits).expect("the case is a graph");
        Self { weights, graph }
    }

    /// Logits of all shapes: as of a model, all equal, with many ties, one far above the others, enormous, nearly equal, falling and
    /// rising by id, and a smooth one whose candidates all count.
    fn of_all_shapes(n_vocab: usize) -> Self {
        let mut random = Random::new(n_vocab as u64);
        let mut logit = |row: usize, id: usize| match row {
            0 => 3.0 * random.normal(),
            1 => -2.5,
            2 => (2.0 * random.normal()).round(),
            3 => {
                if id == n_vocab * 2 / 3 {
                    40.0
                } else {
                    random.normal()
                }
            }
            4 => 1e30 * random.normal(),
            5 => 1.0 + 1e-6 * random.normal(),
            6 => -(id as f32) * 0.01,
            7 => id as f32 * 1e-3,
            _ => random.unit(),
        };
        Self::new(n_vocab, &mut logit, None)
    }

    fn limits(&self) -> Limits {
        Limits { max_rows: N, max_outputs: N, max_seqs: 1, n_ctx: N, n_pages: 1 }
    }

    fn on_gpu(&self, checked: bool) -> gpu::GpuProgram {
        let options = gpu::Options { checked, ..Default::default() };
        gpu::compile(&self.graph, self, self.limits(), &options, &mut |_, _| ())
            .expect("a Vulkan adapter; ./scripts/test installs one")
    }

    fn on_cpu(&self) -> cpu::CpuProgram {
        let options = cpu::Options { threads: 2, ..Default::default() };
        cpu::compile(&self.graph, self, self.limits(), options).expect("the CPU takes any graph")
    }

    fn run(&self, program: &mut dyn Program, want: Want<'_>) -> Output {
        let n = self.graph.n_vocab.min(N) as u32;
        let rows: Vec<Row> = (0..n).map(|i| Row { token: i, pos: i, seq: 0 }).collect();
        let outputs: Vec<u32> = (0..n).collect();
        program.run(&Step { rows: &rows, pages: &[&[0]], outputs: &outputs, want }).expect("the step runs")
    }

    /// The logits that `program` finds, a row each.
    fn logits(&self, program: &mut dyn Program) -> Vec<Vec<f32>> {
        match self.run(program, Want::Logits) {
            Output::Logits(logits) => logits.chunks(self.graph.n_vocab).map(<[f32]>::to_vec).collect(),
            output => panic!("logits were wanted, not {output:?}"),
        }
    }

    fn tokens(&self, program: &mut dyn Program, want: Want<'_>) -> Vec<Option<u32>> {
        match self.run(program, want) {
            Output::Tokens(tokens) => tokens,
            output => panic!("tokens were wanted, not {output:?}"),
        }
    }
}

/// Options from ordinary to absurd.
fn options(random: &mut Random) -> SamplerOptions {
    let mut pick = |of: &[f32]| of[random.next() as usize % of.len()];
    SamplerOptions {
        temperature: pick(&[0.0, 1e-30, 0.01, 0.8, 0.8, 1.0, 1.5, 100.0, 1e30, f32::INFINITY]),
        top_k: pick(&[1.0, 2.0, 40.0, 40.0, 64.0, 255.0, MAX_TOP_K as f32]) as usize,
        top_p: pick(&[1.0, 1.0, 0.95, 0.95, 0.5, 1e-9, 0.0]),
        min_p: pick(&[0.0, 0.05, 0.05, 0.5, 1e-30, 1.0]),
        seed: random.next(),
        ..SamplerOptions::default()
    }
}

fn draw(o: &SamplerOptions, n: u64) -> Draw {
    Draw { temperature: o.temperature, top_k: o.top_k, top_p: o.top_p, min_p: o.min_p, seed: o.seed, n }
}

/// That each row's token is the one that the sampler finds, for so many random options, each drawn from twice.
fn check_draws(what: &str, case: &Case, program: &mut dyn Program, n_steps: usize) {
    let logits = case.logits(program);
    let mut random = Random::new(17);
    for _ in 0..n_steps {
        let options: Vec<SamplerOptions> = logits.iter().map(|_| options(&mut random)).collect();
        let mut samplers: Vec<Sampler> = options.iter().cloned().map(Sampler::new).collect();
        for n in 0..2 {
            let draws: Vec<Draw> = options.iter().map(|o| draw(o, n)).collect();
            let found = case.tokens(program, Want::Draw(&draws));
            for (row, (sampler, logits)) in samplers.iter_mut().zip(&logits).enumerate() {
                assert_eq!(found[row], sampler.sample(logits), "{what}: row {row}, {:?}", draws[row]);
            }
        }
    }
    let best: Vec<_> = logits.iter().map(|row| Sampler::new(SamplerOptions::default()).sample(row)).collect();
    assert_eq!(case.tokens(program, Want::Argmax), best, "{what}");
}

#[test]
fn the_gpu_draws_what_the_sampler_draws() {
    for (n_vocab, n_steps) in [(1, 20), (2, 20), (31, 40), (300, 100), (4096, 20), (4097, 20)] {
        let case = Case::of_all_shapes(n_vocab);
        check_draws(&format!("{n_vocab} tokens"), &case, &mut case.on_gpu(false), n_steps);
    }
}

#[test]
fn the_gpu_draws_what_the_sampler_draws_within_its_bounds() {
    let case = Case::of_all_shapes(4097);
    check_draws("checked", &case, &mut case.on_gpu(true), 10);
}

#[test]
fn the_gpu_draws_what_the_sampler_draws_from_large_vocabularies() {
    for (n_vocab, n_steps) in [(65_537, 8), (262_144, 4)] {
        let case = Case::of_all_shapes(n_vocab);
        check_draws(&format!("{n_vocab} tokens"), &case, &mut case.on_gpu(false), n_steps);
    }
}

#[test]
fn the_cpu_draws_what_the_sampler_draws() {
    for n_vocab in [1, 300, 4097] {
        let case = Case::of_all_shapes(n_vocab);
        check_draws(&format!("{n_vocab} tokens"), &case, &mut case.on_cpu(), 40);
    }
}

/// Of the last of 5,000 logits, in another slice than the first.
#[test]
fn logits_that_are_no_numbers_give_no_token() {
    let n_vocab = 5000;
    let (inf, tail) = (f32::INFINITY, n_vocab - 1);
    let bias = |others: f32, last: f32| (0..n_vocab).map(|id| if id == tail { last } else { others }).collect();
    let cases: [(&str, Vec<f32>, Option<u32>); 5] = [
        ("one is not a number", bias(0.0, f32::NAN), None),
        ("one is not a number, with the sign set", bias(0.0, -f32::NAN), None),
        ("all are -inf", bias(-inf, -inf), None),
        ("one is inf", bias(0.0, inf), None),
        ("all but one are -inf", bias(-inf, 0.0), Some(tail as u32)),
    ];
    for (what, bias, expected) in cases {
        let case = Case::new(n_vocab, &mut |_, _| 1.0, Some(bias));
        let options = SamplerOptions { temperature: 1e30, top_k: 40, ..SamplerOptions::default() };
        for program in [&mut case.on_gpu(false) as &mut dyn Program, &mut case.on_cpu()] {
            let logits = case.logits(program);
            assert_eq!(Sampler::new(options.clone()).sample(&logits[0]), expected, "{what}");
            assert_eq!(case.tokens(program, Want::Argmax), [expected; N], "{what}");
            assert_eq!(case.tokens(program, Want::Draw(&[draw(&options, 0); N])), [expected; N], "{what}");
        }
    }
}

/// Two sequences of a model, `n` steps: known tokens one step at a time, or as many steps ahead as the program takes.
fn two_sequences(program: &mut dyn Program, n: usize, ahead: bool) -> Vec<Option<u32>> {
    let depth = if ahead { program.max_in_flight() } else { 1 };
    let mut tokens = [5, 9];
    let (mut under_way, mut found) = (VecDeque::<(Ticket, [usize; 2])>::new(), Vec::new());
    for pos in 0..n as u32 {
        let draws =
            [1, 2].map(|seed| Draw { temperature: 1.2, top_k: 60, top_p: 0.98, min_p: 0.01, seed, n: pos.into() });
        // In another order from step to step, so that an output row is not always the same sequence's.
        let order = if pos % 2 == 0 { [0, 1] } else { [1, 0] };
        let rows = order.map(|seq| Row { token: tokens[seq], pos, seq: seq as u32 });
        let draws = order.map(|seq| draws[seq]);
        let step = Step { rows: &rows, pages: &[&[0, 3], &[2, 1]], outputs: &[0, 1], want: Want::Draw(&draws) };
        under_way.push_back((program.submit(&step).expect("the step is submitted"), order));
        tokens = order.map(|i| CHOSEN + i as u32);
        if under_way.len() == depth
            && let Some((ticket, order)) = under_way.pop_front()
        {
            let output = program.finish(ticket).expect("the step runs");
            let Output::Tokens(ids) = output else { panic!("tokens were wanted, not {output:?}") };
            let by_sequence = order.map(|i| ids[i]);
            found.extend(by_sequence);
            if depth == 1 {
                tokens = by_sequence.map(|id| id.expect("a token"));
            }
        }
    }
    found
}

#[test]
fn steps_that_run_ahead_give_the_same_tokens() {
    let model = golden::tiny("llama-q4_0");
    let limits = Limits { n_pages: 4, ..golden::limits(64, 32) };
    let options = gpu::Options::default();
    let compile = || gpu::compile(&model.graph, &model, limits, &options, &mut |_, _| ()).expect("an adapter");
    let mut program = compile();
    assert!(program.max_in_flight() > 1, "nothing runs ahead");
    let ahead = two_sequences(&mut program, 40, true);
    let alone = two_sequences(&mut compile(), 40, false);
    assert_eq!(ahead, alone[..ahead.len()]);
    assert!(ahead.len() >= 70 && ahead.iter().all(Option::is_some), "{ahead:?}");
}

/// One submit and one write, whatever comes back.
#[test]
fn a_token_is_one_write() {
    for name in ["llama-q4_0", "gemma3-q8_0"] {
        let model = golden::tiny(name);
        let limits = Limits { n_ctx: 4096, n_pages: 128, max_seqs: 1, ..golden::limits(64, 512) };
        let options = gpu::Options::default();
        let mut program = gpu::compile(&model.graph, &model, limits, &options, &mut |_, _| ()).expect("an adapter");
        let draw = draw(&SamplerOptions { temperature: 1.0, top_k: 40, ..SamplerOptions::default() }, 0);
        for want in [Want::Nothing, Want::Argmax, Want::Draw(&[draw]), Want::Logits] {
            let rows = [Row { token: 1, pos: 0, seq: 0 }];
            let pages: Vec<u32> = (0..128).collect();
            program.run(&Step { rows: &rows, pages: &[&pages], outputs: &[0], want }).expect("the step runs");
            let counters: HashMap<_, _> = program.info().counters.into_iter().collect();
            assert_eq!((counters["submits"], counters["writes"]), (1, 1), "{name}, {want:?}");
        }
    }
}
