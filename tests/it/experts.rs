//! Mixtures of experts: each op against its formula in f64, and mixtures as a whole on the GPU against the CPU's reference.
//!
//! Rows choose their experts by logits that come out of a table, so that a case says which experts have no row, one, or many.

mod families;

use halfbyte::backend::{Limits, Program, Weights, cpu, gpu};
use halfbyte::graph::{Activation, Gating, Graph, GraphBuilder, Val};
use halfbyte::quant::{self, Format};
use proptest::prelude::*;
use proptest::sample::select;

use crate::cpu::{check_op, check_product};
use crate::gpu::{assert_close, in_f32, limit, logits, variants};
use crate::ops::{self, Compile, ProductError, Tables, assert_near, f64s, format};
use crate::shapes::{self, Numbers};

/// The experts of a row, the one with the largest logit first.
fn chosen(logits: &[f32], n_used: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("numbers").then(a.cmp(&b)));
    order.truncate(n_used);
    order
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

/// Their weights.
fn weights(logits: &[f32], chosen: &[usize], gating: Gating, scale: f64) -> Vec<f64> {
    let score = |&e: &usize| if gating.is_sigmoid() { sigmoid(logits[e]) } else { f64::from(logits[e]).exp() };
    let sum: f64 = match gating {
        Gating::Used | Gating::NormedSigmoid => chosen.iter().map(score).sum(),
        Gating::All => (0..logits.len()).map(|e| score(&e)).sum(),
        Gating::Sigmoid => 1.0,
    };
    chosen.iter().map(|e| score(e) / sum * scale).collect()
}

const GATINGS: [Gating; 4] = [Gating::Used, Gating::All, Gating::Sigmoid, Gating::NormedSigmoid];

fn check_route(compile: Compile<'_>, t: usize, [n_expert, n_used]: [usize; 2], gating: Gating, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    // Zeros are there more than once: of equal logits the lowest expert comes first.
    let x = tables.input("x", t, n_expert, &mut numbers);
    let found = tables.run(compile, t, &ops::step_of(t), &[&ops::pages_for(t)], |g| {
        g.block(0).route(g.embed("x", t, n_expert, 1.0), n_used, gating, 2.5)
    });
    for (found, x) in found.chunks(2 * n_used).zip(x.chunks(n_expert)) {
        let (experts, found) = found.split_at(n_used);
        let expected = chosen(x, n_used);
        assert_eq!(experts, expected.iter().map(|&e| e as f32).collect::<Vec<_>>(), "experts of {x:?}");
        // An exponent is a difference of logits, up to some thirty, rounded to 24 bits: e⁻³⁰ is off by 10⁻⁶ of itself.
        let limit = limit.max(1e-11);
        assert_near(&format!("weights of {x:?}"), found, &weights(x, &expected, gating, 2.5), limit);
    }
}

/// Experts are chosen by what a bias makes of their scores, and weighed without.
fn check_biased_route(compile: Compile<'_>, t: usize, [n_expert, n_used]: [usize; 2], seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let x = tables.input("x", t, n_expert, &mut numbers);
    let bias = numbers.f32s(n_expert);
    tables.add("blk.0.exp_probs_b.bias", &[n_expert], format("F32"), &bias);
    let found = tables.run(compile, t, &ops::step_of(t), &[&ops::pages_for(t)], |g| {
        g.block(0).route(g.embed("x", t, n_expert, 1.0), n_used, Gating::NormedSigmoid, 2.5)
    });
    for (found, x) in found.chunks(2 * n_used).zip(x.chunks(n_expert)) {
        let (experts, found) = found.split_at(n_used);
        let experts: Vec<usize> = experts.iter().map(|&e| e as usize).collect();
        assert!((1..n_used).all(|u| !experts[..u].contains(&experts[u])), "{experts:?} are distinct");
        let score = |e: usize| sigmoid(x[e]) + f64::from(bias[e]);
        let mut best: Vec<f64> = (0..n_expert).map(score).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        for (&expert, best) in experts.iter().zip(best) {
            // Sums in f32 of numbers up to ten or so: nearer ones may change places.
            assert!((score(expert) - best).abs() <= 1e-5 * best.abs().max(1.0), "{experts:?} of {x:?} + {bias:?}");
        }
        let expected = weights(x, &experts, Gating::NormedSigmoid, 2.5);
        assert_near(&format!("weights of {x:?}"), found, &expected, limit.max(1e-11));
    }
}

fn check_row_gate(compile: Compile<'_>, t: usize, width: usize, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let x = f64s(&tables.input("x", t, width, &mut numbers));
    let gates = tables.input("g", t, 1, &mut numbers);
    let found = tables.run(compile, t, &ops::step_of(t), &[&ops::pages_for(t)], |g| {
        g.block(0).row_gate(g.embed("x", t, width, 1.0), g.embed("g", t, 1, 1.0))
    });
    let expected: Vec<f64> = x.iter().enumerate().map(|(i, x)| sigmoid(gates[i / width]) * x).collect();
    assert_near(&format!("row_gate [{t}, {width}]"), &found, &expected, limit);
}

/// What a product with experts is about.
#[derive(Debug, Clone, Copy)]
struct Case {
    format: &'static Format,
    t: usize,
    n_expert: usize,
    n_used: usize,
    shape: [usize; 2],
    /// One row of x for each expert of a row, or one for all.
    x_each: bool,
    bias: bool,
    /// A tensor for each expert.
    one_each: bool,
}

fn check_expert_matmul(compile: Compile<'_>, case: Case, seed: u64, limit: f64) {
    let Case { format: of_weight, t, n_expert, n_used, shape: [m, k], x_each, bias, one_each } = case;
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let n_x = if x_each { n_used } else { 1 };
    let x = f64s(&tables.input("x", t, n_x * k, &mut numbers));
    let routes = tables.input("r", t, n_expert, &mut numbers);
    let numbers_of_w = numbers.f32s(n_expert * m * k);
    let w = if one_each {
        let each = numbers_of_w.chunks(m * k).enumerate();
        each.flat_map(|(e, w)| f64s(&tables.add(&format!("blk.0.w.{e}.weight"), &[m, k], of_weight, w))).collect()
    } else {
        f64s(&tables.add("blk.0.w_exps.weight", &[n_expert, m, k], of_weight, &numbers_of_w))
    };
    let n_bias = n_expert * m;
    let bias = bias
        .then(|| f64s(&tables.add("blk.0.w_exps.bias", &[n_expert, m], format("F32"), &numbers.f32s(n_bias))))
        .unwrap_or(vec![0.0; n_bias]);
    let found = tables.run(compile, t, &ops::step_of(t), &[&ops::pages_for(t)], |g| {
        let b = g.block(0);
        let route = b.route(g.embed("r", t, n_expert, 1.0), n_used, Gating::Used, 1.0);
        b.expert_matmul("w", g.embed("x", t, n_x * k, 1.0).heads(n_x), route, n_expert, m)
    });
    let mut error = ProductError::default();
    for (row, found) in found.chunks(n_used * m).enumerate() {
        let experts = chosen(&routes[row * n_expert..][..n_expert], n_used);
        for (u, (found, e)) in found.chunks(m).zip(experts).enumerate() {
            let x = &x[(row * n_x + u % n_x) * k..][..k];
            for (i, found) in found.iter().enumerate() {
                error.add(*found, x, &w[(e * m + i) * k..][..k], bias[e * m + i]);
            }
        }
    }
    error.check(&format!("{case:?}"), limit);
}

fn check_expert_sum(compile: Compile<'_>, t: usize, n_used: usize, width: usize, seed: u64, limit: f64) {
    let mut numbers = Numbers(seed);
    let mut tables = Tables::default();
    let n_expert = n_used + 3;
    let x = f64s(&tables.input("x", t, n_used * width, &mut numbers));
    let routes = tables.input("r", t, n_expert, &mut numbers);
    let found = tables.run(compile, t, &ops::step_of(t), &[&ops::pages_for(t)], |g| {
        let b = g.block(0);
        let route = b.route(g.embed("r", t, n_expert, 1.0), n_used, Gating::All, 1.0);
        b.expert_sum(g.embed("x", t, n_used * width, 1.0).heads(n_used), route)
    });
    let mut expected = vec![0.0; t * width];
    for (row, logits) in routes.chunks(n_expert).enumerate() {
        let weights = weights(logits, &chosen(logits, n_used), Gating::All, 1.0);
        for (u, weight) in weights.iter().enumerate() {
            for i in 0..width {
                expected[row * width + i] += weight * x[(row * n_used + u) * width + i];
            }
        }
    }
    assert_near(&format!("expert_sum [{t}, {n_used}, {width}]"), &found, &expected, limit);
}

/// E and U: all experts used, one of many, and what models have.
fn mixtures() -> impl Strategy<Value = [usize; 2]> {
    select(&[[1, 1], [4, 2], [5, 5], [8, 3], [32, 4], [128, 8]][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn route_is_its_formula(
        t in shapes::rows(),
        mixture in mixtures(),
        gating in select(&GATINGS[..]),
        seed in any::<u64>(),
    ) {
        check_op(|compile, limit| check_route(compile, t, mixture, gating, seed, limit));
    }

    #[test]
    fn a_bias_counts_for_the_choice_of_experts_only(
        t in shapes::rows(),
        mixture in mixtures(),
        seed in any::<u64>(),
    ) {
        check_op(|compile, limit| check_biased_route(compile, t, mixture, seed, limit));
    }

    #[test]
    fn row_gate_is_its_formula(t in shapes::rows(), width in shapes::dimension(), seed in any::<u64>()) {
        check_op(|compile, limit| check_row_gate(compile, t, width, seed, limit));
    }

    #[test]
    fn expert_matmul_is_its_formula(
        format in select(quant::ALL),
        t in shapes::rows(),
        [n_expert, n_used] in mixtures(),
        m in select(&[1, 31, 64, 257][..]),
        n_blocks in 1_usize..=3,
        (x_each, bias, one_each) in any::<(bool, bool, bool)>(),
        seed in any::<u64>(),
    ) {
        let k = (32 * n_blocks).next_multiple_of(format.block_len);
        // No more than a million numbers.
        let shape = [m.min((1_000_000 / (n_expert * k)).max(1)), k];
        let case = Case { format, t, n_expert, n_used, shape, x_each, bias, one_each };
        check_product(|compile, limit| check_expert_matmul(compile, case, seed, limit));
    }

    #[test]
    fn expert_sum_is_its_formula(
        t in shapes::rows(),
        n_used in select(&[1, 2, 8][..]),
        width in shapes::dimension(),
        seed in any::<u64>(),
    ) {
        check_op(|compile, limit| check_expert_sum(compile, t, n_used, width, seed, limit));
    }
}

/// A logit that is no number leads to no expert that does not exist, on any back end.
#[test]
fn logits_that_are_no_numbers_choose_experts_that_exist() {
    let firsts =
        [[f32::NAN; 4], [f32::NAN, 1.0, f32::NAN, 2.0], [f32::NEG_INFINITY; 4], [0.0, -0.0, f32::INFINITY, 0.0]];
    let mut values = [[f32::NEG_INFINITY; 32]; 4];
    values.iter_mut().zip(firsts).for_each(|(row, first)| row[..4].copy_from_slice(&first));
    let check = |compile: Compile<'_>| {
        let mut tables = Tables::default();
        tables.add("x.weight", &[4, 32], format("F32"), values.as_flattened());
        let found = tables.run(compile, 4, &ops::step_of(4), &[&[0]], |g| {
            g.block(0).route(g.embed("x", 4, 32, 1.0), 16, Gating::Used, 1.0)
        });
        let rows: Vec<&[f32]> = found.chunks(32).map(|row| &row[..16]).collect();
        assert!(rows.iter().all(|row| (0..16).all(|u| row[u] < 32.0 && !row[..u].contains(&row[u]))), "{rows:?}");
        let first: Vec<&[f32]> = rows.iter().map(|row| &row[..3]).collect();
        assert_eq!(first, [[0.0, 1.0, 2.0], [0.0, 2.0, 3.0], [0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]);
    };
    check_op(|compile, _| check(compile));
    check(&on_gpu);
}

/// Keeps all tensors.
fn on_gpu(graph: &Graph, weights: &dyn Weights, limits: Limits) -> Box<dyn Program> {
    let options = gpu::Options { fuse: false, keep_tensors: true, ..in_f32() };
    Box::new(gpu::compile(graph, weights, limits, &options, &mut |_, _| ()).expect("an adapter: see ./scripts/test"))
}

/// A mixture between an embedding and logits.
#[derive(Debug, Clone, Copy)]
struct Mixture {
    n_embd: usize,
    n_ff: usize,
    n_expert: usize,
    n_used: usize,
    gating: Gating,
    act: Activation,
    /// Of gate, up and down.
    formats: [&'static str; 3],
    bias: bool,
    /// A tensor for each expert.
    one_each: bool,
    /// A bias for the choice.
    choice_bias: bool,
    /// What all rows use as well, with a gate for each row.
    shared: bool,
}

const MIXTURE: Mixture = Mixture {
    n_embd: 256,
    n_ff: 96,
    n_expert: 8,
    n_used: 3,
    gating: Gating::Used,
    act: Activation::Silu,
    formats: ["Q8_0", "Q8_0", "Q4_1"],
    bias: false,
    one_each: false,
    choice_bias: false,
    shared: false,
};

const N_VOCAB: usize = 71;

impl Mixture {
    fn tables(&self) -> Tables {
        let Self { n_embd: d, n_ff: f, n_expert: e, .. } = *self;
        let mut numbers = Numbers(e as u64);
        let mut tables = Tables::default();
        tables.input("table", N_VOCAB, d, &mut numbers);
        tables.input("output", N_VOCAB, d, &mut numbers);
        tables.input("blk.0.ffn_gate_inp", e, d, &mut numbers);
        tables.input("blk.0.ffn_shexp", d, d, &mut numbers);
        tables.input("blk.0.ffn_gate_inp_shexp", 1, d, &mut numbers);
        if self.choice_bias {
            tables.add("blk.0.exp_probs_b.bias", &[e], format("F32"), &numbers.f32s(e));
        }
        for ((name, [m, k]), of) in [("gate", [f, d]), ("up", [f, d]), ("down", [d, f])].into_iter().zip(self.formats) {
            let scale = (k as f32).sqrt().recip();
            let weights: Vec<f32> = numbers.f32s(e * m * k).iter().map(|x| x * scale).collect();
            if self.one_each {
                for (e, weights) in weights.chunks(m * k).enumerate() {
                    tables.add(&format!("blk.0.ffn_{name}.{e}.weight"), &[m, k], format(of), weights);
                }
            } else {
                tables.add(&format!("blk.0.ffn_{name}_exps.weight"), &[e, m, k], format(of), &weights);
            }
            if self.bias {
                tables.add(&format!("blk.0.ffn_{name}_exps.bias"), &[e, m], format("F32"), &numbers.f32s(e * m));
            }
        }
        tables
    }

    fn build(&self, g: &GraphBuilder<'_>) -> Val {
        let Self { n_embd: d, n_ff: f, n_expert: e, .. } = *self;
        let (x, b) = (g.embed("table", N_VOCAB, d, 1.0), g.block(0));
        let route = b.route(b.matmul("ffn_gate_inp", x, e), self.n_used, self.gating, 1.5);
        let gate = b.expert_matmul("ffn_gate", x, route, e, f);
        let h = b.gated(gate, b.expert_matmul("ffn_up", x, route, e, f), self.act);
        let y = b.expert_sum(b.expert_matmul("ffn_down", h, route, e, d), route);
        let shared = || b.row_gate(b.matmul("ffn_shexp", x, d), b.matmul("ffn_gate_inp_shexp", x, 1));
        let x = if self.shared { b.add(x, shared()) } else { x };
        g.matmul("output", g.output_rows(b.add(x, y)), N_VOCAB)
    }

    fn graph(&self, tables: &Tables) -> Graph {
        let shapes = |name: &str| tables.weight(name).map(|w| w.shape);
        let g = GraphBuilder::new("mixture", &shapes);
        let logits = self.build(&g);
        g.finish(logits).expect("the mixture is a graph")
    }
}

const MIXTURES: &[Mixture] = &[
    MIXTURE,
    Mixture { one_each: true, shared: true, ..MIXTURE },
    Mixture { gating: Gating::NormedSigmoid, choice_bias: true, ..MIXTURE },
    // Gate and up can't be one matrix; the rows of an expert are odd in number, and more than a tile.
    Mixture {
        n_embd: 64,
        n_ff: 96,
        n_expert: 5,
        n_used: 5,
        gating: Gating::All,
        act: Activation::Gelu,
        formats: ["Q8_0", "F16", "Q5_0"],
        bias: true,
        one_each: true,
        ..MIXTURE
    },
    Mixture {
        n_embd: 96,
        n_ff: 160,
        n_expert: 40,
        n_used: 4,
        gating: Gating::Sigmoid,
        act: Activation::SwigluOai,
        formats: ["Q4_0", "Q4_0", "F32"],
        bias: true,
        ..MIXTURE
    },
    // One expert gets all rows.
    Mixture { n_embd: 256, n_ff: 256, n_expert: 1, n_used: 1, formats: ["Q4_K", "Q4_K", "Q6_K"], ..MIXTURE },
];

/// With every variant of the kernels, and with matrices that are split over several bindings in the middle of experts.
#[test]
fn mixtures_on_the_gpu_are_those_of_the_reference() {
    let limits = Limits { max_rows: 64, max_outputs: 64, max_seqs: 1, n_ctx: 512, n_pages: 16 };
    for mixture in MIXTURES {
        let tables = mixture.tables();
        let graph = mixture.graph(&tables);
        let reference = cpu::Options { kernels: cpu::Kernels::Reference, ..Default::default() };
        let mut expected = cpu::compile(&graph, &tables, limits, reference).expect("the CPU takes any graph");
        let mut split = gpu::Options { keep_tensors: false, ..in_f32() };
        split.device.max_binding_bytes = Some(96 << 10);
        for (variant, options) in variants().into_iter().chain([("split", split)]) {
            let mut found = gpu::compile(&graph, &tables, limits, &options, &mut |_, _| ())
                .expect("a Vulkan adapter; ./scripts/test installs one");
            let most = found.limits().max_rows;
            for n in [1, 2, 8, 9, 33, 64].into_iter().filter(|&n| n <= most) {
                let what = format!("{mixture:?}, {n} rows, {variant}");
                assert_close(&what, &logits(&mut found, n, 0), &logits(&mut expected, n, 0), limit(&options));
            }
        }
    }
}

/// The weights of an expert that no row uses may be anything.
#[test]
fn experts_that_no_row_uses_are_not_read() {
    const N: usize = 40;
    let check = |compile: Compile<'_>| {
        let mut numbers = Numbers(5);
        let mut tables = Tables::default();
        // Of three experts the second one is never chosen, whether few rows come or many.
        let routes: Vec<f32> =
            (0..N).flat_map(|t| [t as f32 - 8.0, -100.0, 0.0].into_iter().chain([-200.0; 29])).collect();
        tables.add("r.weight", &[N, 32], format("F32"), &routes);
        let x = f64s(&tables.input("x", N, 32, &mut numbers));
        let mut w = numbers.f32s(32 * 32 * 32);
        w[32 * 32..2 * 32 * 32].fill(f32::NAN);
        w[3 * 32 * 32..].fill(f32::NAN);
        tables.add("blk.0.w_exps.weight", &[32, 32, 32], format("F32"), &w);
        for n in [1, 4, N] {
            let found = tables.run(compile, N, &ops::step_of(n), &[&ops::pages_for(n)], |g| {
                let b = g.block(0);
                let route = b.route(g.embed("r", N, 32, 1.0), 2, Gating::Used, 1.0);
                b.expert_matmul("w", g.embed("x", N, 32, 1.0), route, 32, 32)
            });
            let product = |t: usize, e: usize, m: usize| -> f64 {
                let w = &w[(e * 32 + m) * 32..][..32];
                w.iter().zip(&x[t * 32..]).map(|(&w, x)| f64::from(w) * x).sum()
            };
            // Expert 0 comes first where its logit is not below 0.
            let experts = |t: usize| if t >= 8 { [0, 2] } else { [2, 0] };
            let expected: Vec<f64> = (0..n)
                .flat_map(|t| experts(t).into_iter().flat_map(move |e| (0..32).map(move |m| (t, e, m))))
                .map(|(t, e, m)| product(t, e, m))
                .collect();
            assert_near(&format!("{n} rows"), &found, &expected, 1e-9);
        }
    };
    check_op(|compile, _| check(compile));
    check(&on_gpu);
}
