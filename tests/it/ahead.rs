//! Steps that the engine submits before it has seen the tokens that they start from: nobody can tell, except by the clock.
//!
//! Most tests run the CPU's program behind one that claims to run ahead and counts what it is given; the last one takes
//! the GPU's, which really does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::executor::{block_on, block_on_stream};
use futures::stream::StreamExt;
use halfbyte::backend::{CHOSEN, Output, Program, Step, Ticket};
use halfbyte::engine::{
    Device, Engine, EngineOptions, Finish, GenerateOptions, Loaded, SamplerOptions, Session, TokenStream,
};
use halfbyte::{Error, Result};

use crate::common::{Random, as_its_program, golden};

/// What a program was given.
#[derive(Default)]
struct Seen {
    n_steps: AtomicUsize,
    /// Steps with a row whose token was not known yet.
    n_ahead: AtomicUsize,
    /// Rows in all.
    n_rows: AtomicUsize,
    most_under_way: AtomicUsize,
}

/// A program that takes `depth` steps at a time, computes them at once, and gives the results when they are asked for.
struct Counted {
    program: Box<dyn Program>,
    depth: usize,
    results: VecDeque<(u64, Output)>,
    seen: Arc<Seen>,
    /// Nothing is computed while somebody else holds it.
    gate: Arc<Mutex<()>>,
    /// The step whose logits are no numbers.
    bad_step: Option<u64>,
}

impl Program for Counted {
    fn run(&mut self, _: &Step<'_>) -> Result<Output> {
        panic!("the engine submits steps")
    }
    fn max_in_flight(&self) -> usize {
        self.depth
    }
    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        let _open = self.gate.lock().expect("nobody panics");
        let number = self.seen.n_steps.fetch_add(1, Ordering::Relaxed) as u64;
        let ahead = step.rows.iter().any(|row| row.token >= CHOSEN);
        self.seen.n_ahead.fetch_add(ahead.into(), Ordering::Relaxed);
        self.seen.n_rows.fetch_add(step.rows.len(), Ordering::Relaxed);
        let mut output = self.program.run(step)?;
        if let Output::Tokens(ids) = &mut output
            && self.bad_step == Some(number)
        {
            ids.fill(None);
        }
        self.results.push_back((number, output));
        self.seen.most_under_way.fetch_max(self.results.len(), Ordering::Relaxed);
        assert!(self.results.len() <= self.depth, "more steps than there is room for");
        Ok(Ticket::Number(number))
    }
    fn finish(&mut self, ticket: Ticket) -> Result<Output> {
        let (number, output) = self.results.pop_front().expect("a step is under way");
        assert_eq!(ticket, Ticket::Number(number), "steps are finished in order");
        Ok(output)
    }
    as_its_program!();
}

fn options(device: Device) -> EngineOptions {
    EngineOptions { device, threads: Some(2), n_ctx: Some(256), max_sessions: 3, ..EngineOptions::default() }
}

/// The tiny model on an engine that runs `depth` steps at a time.
fn engine(options: &EngineOptions, depth: usize) -> (Engine, Arc<Seen>) {
    with(options, depth, Arc::default(), None)
}

/// The same with a gate, and a step that goes wrong.
fn with(options: &EngineOptions, depth: usize, gate: Arc<Mutex<()>>, bad_step: Option<u64>) -> (Engine, Arc<Seen>) {
    let path = golden("tiny/llama-f32.gguf");
    let Loaded { program, tokenizer, facts } = Loaded::open(&path, options, &mut |_, _| {}).expect("it loads");
    let seen = Arc::new(Seen::default());
    let program = Box::new(Counted { program, depth, results: VecDeque::new(), seen: seen.clone(), gate, bad_step });
    (Engine::start(Loaded { program, tokenizer, facts }).expect("a thread"), seen)
}

fn on_cpu(depth: usize) -> (Engine, Arc<Seen>) {
    engine(&options(Device::Cpu), depth)
}

const PROMPT: &[u32] = &[1, 280, 17, 263, 99, 281, 12, 285, 44, 270, 265, 2, 77, 140, 260];

fn at_most(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() }
}

/// How answers are sampled: greedily, drawn on the device, and in two ways that need the logits.
fn ways() -> [(&'static str, GenerateOptions); 4] {
    let of = |sampler| GenerateOptions { sampler, ..at_most(40) };
    let drawn = SamplerOptions { temperature: 1.5, top_k: 50, top_p: 0.99, seed: 3, ..SamplerOptions::default() };
    [
        ("greedy", at_most(40)),
        ("drawn", of(drawn.clone())),
        ("with a penalty", of(SamplerOptions { repeat_penalty: 1.3, ..drawn.clone() })),
        ("from all tokens", of(SamplerOptions { top_k: 0, ..drawn })),
    ]
}

fn ids(stream: TokenStream) -> Vec<u32> {
    block_on_stream(stream).map(|token| token.expect("no error").id).collect()
}

#[test]
fn the_text_is_the_same_and_the_device_has_always_a_step() {
    for (way, options) in ways() {
        // No more tokens than wait for a reader, so that none is waited for.
        let options = GenerateOptions { max_tokens: Some(16), ..options };
        let (alone, seen_alone) = on_cpu(1);
        let expected = ids(alone.session().expect("a session").generate(PROMPT, options.clone()));
        assert_eq!(expected.len(), 16, "{way}");
        assert_eq!(seen_alone.n_ahead.load(Ordering::Relaxed), 0, "{way}");
        for depth in [2, 3] {
            let (engine, seen) = on_cpu(depth);
            assert_eq!(ids(engine.session().expect("a session").generate(PROMPT, options.clone())), expected, "{way}");
            let needs_logits = options.sampler.needs_logits();
            // All but the prompt's step, or none.
            assert_eq!(seen.n_ahead.load(Ordering::Relaxed), if needs_logits { 0 } else { 15 }, "{way}");
            assert_eq!(seen.most_under_way.load(Ordering::Relaxed), if needs_logits { 1 } else { depth }, "{way}");
            // The number of tokens was known, and nothing was computed beyond them.
            assert_eq!(seen.n_steps.load(Ordering::Relaxed), 16, "{way}");
        }
    }
}

/// Longer than the channel, so that steps pause for the reader and go on.
#[test]
fn a_long_text_is_the_same() {
    for (way, options) in ways() {
        let expected = ids(on_cpu(1).0.session().expect("a session").generate(PROMPT, options.clone()));
        for depth in [2, 3] {
            let found = ids(on_cpu(depth).0.session().expect("a session").generate(PROMPT, options.clone()));
            assert_eq!(found, expected, "{way}");
        }
        assert!(expected.len() > 20, "{way}: it ends after {} tokens", expected.len());
    }
}

/// What is computed behind a stop string is neither seen nor taken for a part of the conversation.
#[test]
fn a_stop_string_ends_the_text_where_it_would_without() {
    let (alone, _) = on_cpu(1);
    let mut session = alone.session().expect("a session");
    let whole: Vec<_> = block_on_stream(session.generate(PROMPT, at_most(15))).map(|t| t.expect("no error")).collect();
    // Among as many tokens as can wait for the reader, so that steps never pause for it.
    let ends_at = (8..15).find(|&i| !whole[i].text.trim().is_empty()).expect("a text");
    let stop = whole[ends_at].text.clone();
    let answer = |engine: &Engine| {
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions { stop: vec![stop.clone()], ..at_most(60) };
        let mut stream = session.generate(PROMPT, options);
        let tokens: Vec<_> = block_on_stream(&mut stream).map(|t| t.expect("no error")).collect();
        assert_eq!(stream.finish(), Some(Finish::StopString));
        let answer: Vec<u32> = tokens.iter().map(|t| t.id).collect();
        let conversation = [PROMPT, &answer, &[5, 6, 7]].concat();
        let mut stream = session.generate(&conversation, at_most(20));
        let more: Vec<u32> = block_on_stream(&mut stream).map(|t| t.expect("no error").id).collect();
        (tokens, more, stream.timings().n_reused)
    };
    let (tokens, more, n_reused) = answer(&alone);
    assert_eq!(n_reused, PROMPT.len() + tokens.len() - 1);
    for depth in [2, 3] {
        let (engine, seen) = on_cpu(depth);
        let (found_tokens, found_more, found_reused) = answer(&engine);
        assert_eq!((&found_tokens, &found_more), (&tokens, &more));
        // The last token of the answer ran before anybody saw it, and counts; what came behind it does not.
        assert_eq!(found_reused, PROMPT.len() + tokens.len());
        assert!(seen.n_ahead.load(Ordering::Relaxed) > tokens.len(), "nothing ran ahead");
    }
}

#[test]
fn a_dropped_stream_and_another_answer_leave_nothing_behind() {
    let (alone, _) = on_cpu(1);
    let other: Vec<u32> = PROMPT.iter().map(|t| t ^ 1).collect();
    let expected = ids(alone.session().expect("a session").generate(&other, at_most(60)));
    let (engine, _) = on_cpu(3);
    let mut session = engine.session().expect("a session");
    for _ in 0..20 {
        let mut dropped = session.generate(PROMPT, at_most(100));
        block_on(dropped.next()).expect("a token").expect("no error");
        drop(dropped);
        let cut = session.generate(PROMPT, at_most(100));
        assert_eq!(ids(session.generate(&other, at_most(60))), expected);
        drop(cut);
    }
    drop(session);
    assert_eq!(ids(engine.session().expect("a session").generate(&other, at_most(60))), expected);
}

#[test]
fn a_slow_reader_gets_every_token() {
    let (engine, _) = on_cpu(3);
    let (mut a, mut b) = (engine.session().expect("a session"), engine.session().expect("a session"));
    // Nobody reads this one: its channel is full while steps of it are under way.
    let slow = a.generate(PROMPT, at_most(90));
    let expected = ids(b.generate(PROMPT, at_most(90)));
    assert_eq!(expected.len(), 90);
    assert_eq!(ids(slow), expected);
}

#[test]
fn the_context_fills_up_to_its_last_position() {
    for depth in [1, 3] {
        let (engine, seen) = engine(&EngineOptions { n_ctx: Some(PROMPT.len() + 6), ..options(Device::Cpu) }, depth);
        let mut session = engine.session().expect("a session");
        let mut stream = session.generate(PROMPT, GenerateOptions::default());
        assert_eq!(block_on_stream(&mut stream).count(), 6);
        assert_eq!(stream.finish(), Some(Finish::ContextFull));
        assert_eq!(seen.n_steps.load(Ordering::Relaxed), 6);
    }
}

/// Sessions of all kinds at once, so that steps with and without logits follow one another.
fn together(engine: &Engine) -> Vec<Vec<u32>> {
    let mut sessions: Vec<Session> = (0..3).map(|_| engine.session().expect("a session")).collect();
    let prompts = [PROMPT, &PROMPT[..5], &PROMPT[3..]];
    let ways = ways();
    let of = [0, 1, 2].map(|i| ways[i].1.clone());
    let streams = sessions.iter_mut().zip(prompts).zip(of).map(|((session, prompt), options)| {
        session.generate(prompt, options).map(|token| token.expect("no error").id).collect::<Vec<u32>>()
    });
    block_on(futures::future::join_all(streams))
}

#[test]
fn sessions_with_and_without_logits_do_not_disturb_one_another() {
    let expected = together(&on_cpu(1).0);
    let (engine, seen) = on_cpu(3);
    assert_eq!(together(&engine), expected);
    // Prompts of 42 tokens in all, of which some are shared, and 39 more of each.
    assert!(seen.n_rows.load(Ordering::Relaxed) <= 42 + 3 * 39, "rows were computed in vain");
}

/// Two sessions that decode have their rows in the same steps, ahead or not: weights are read once for both.
#[test]
fn sessions_that_decode_together_stay_together() {
    let gate = Arc::new(Mutex::new(()));
    let (engine, seen) = with(&options(Device::Cpu), 2, gate.clone(), None);
    let mut sessions = [engine.session().expect("a session"), engine.session().expect("a session")];
    let closed = gate.lock().expect("nobody panics");
    let streams: Vec<_> = sessions.iter_mut().map(|s| s.generate(PROMPT, at_most(16))).collect();
    drop(closed);
    for stream in streams {
        assert_eq!(ids(stream).len(), 16);
    }
    // The first may have had one or two steps to itself before the second came.
    let n_steps = seen.n_steps.load(Ordering::Relaxed);
    assert!((16..=18).contains(&n_steps), "{n_steps} steps for twice 16 tokens");
}

/// The steps behind it are under way already, and bring nobody anything.
#[test]
fn logits_that_are_no_numbers_end_one_answer() {
    for depth in [1, 3] {
        let (engine, _) = with(&options(Device::Cpu), depth, Arc::default(), Some(5));
        let mut session = engine.session().expect("a session");
        let results: Vec<_> = block_on_stream(session.generate(PROMPT, at_most(12))).collect();
        assert_eq!(results.len(), 6, "five tokens and an error");
        assert!(matches!(results[5], Err(Error::BadLogits)), "{:?}", results[5]);
        let expected = ids(on_cpu(1).0.session().expect("a session").generate(PROMPT, at_most(12)));
        assert_eq!(ids(session.generate(PROMPT, at_most(12))), expected);
    }
}

/// Three sessions that begin, drop and replace answers as they like: each answer that is read is the one that the prompt
/// gives alone, so nothing that was computed in vain was left in the KV cache.
#[test]
fn whatever_sessions_do_no_answer_changes() {
    let prompts: Vec<Vec<u32>> =
        [5, 15, 40, 70].map(|n| PROMPT.iter().cycle().take(n).copied().collect()).into_iter().collect();
    let ways = ways().map(|(_, options)| options);
    let alone = on_cpu(1).0;
    let expected: Vec<Vec<u32>> = prompts
        .iter()
        .flat_map(|prompt| ways.iter().map(|way| (prompt.clone(), way.clone())))
        .map(|(prompt, way)| ids(alone.session().expect("a session").generate(&prompt, way)))
        .collect();
    let (engine, seen) = engine(&EngineOptions { max_rows: 24, ..options(Device::Cpu) }, 3);
    let mut sessions: Vec<Session> = (0..3).map(|_| engine.session().expect("a session")).collect();
    let mut open: [Option<(TokenStream, usize, usize)>; 3] = [const { None }; 3];
    let mut random = Random::new(1);
    for _ in 0..400 {
        let i = random.next() as usize % 3;
        match (open[i].take(), random.next() % 8) {
            (None, _) => {
                let case = random.next() as usize % expected.len();
                let (prompt, way) = (&prompts[case / ways.len()], ways[case % ways.len()].clone());
                open[i] = Some((sessions[i].generate(prompt, way), case, 0));
            }
            (Some(_), 0) => {}
            (Some((mut stream, case, n)), _) => {
                let token = block_on(stream.next()).map(|token| token.expect("no error").id);
                assert_eq!(token.as_ref(), expected[case].get(n), "token {n} of case {case}");
                open[i] = token.map(|_| (stream, case, n + 1));
            }
        }
    }
    assert!(seen.n_ahead.load(Ordering::Relaxed) > 20, "nothing ran ahead");
}

#[test]
fn the_gpu_runs_ahead_and_says_the_same() {
    let load =
        || Loaded::open(&golden("tiny/llama-f32.gguf"), &options(Device::Gpu), &mut |_, _| {}).expect("it loads");
    let depth = load().program.max_in_flight();
    assert!(depth > 1, "nothing runs ahead");
    let ahead = Engine::start(load()).expect("a thread");
    // The same program, which has to finish each step before the next.
    struct Alone {
        program: Box<dyn Program>,
    }
    impl Program for Alone {
        fn run(&mut self, step: &Step<'_>) -> Result<Output> {
            self.program.run(step)
        }
        as_its_program!();
    }
    let Loaded { program, tokenizer, facts } = load();
    let alone = Engine::start(Loaded { program: Box::new(Alone { program }), tokenizer, facts }).expect("a thread");
    for (way, options) in ways() {
        let expected = ids(alone.session().expect("a session").generate(PROMPT, options.clone()));
        let found = ids(ahead.session().expect("a session").generate(PROMPT, options));
        assert_eq!(found, expected, "{way}");
        assert!(found.len() > 1, "{way}");
    }
}
