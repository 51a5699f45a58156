//! Tests of the engine: sessions that run together, streams that end in every way, and devices that fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::executor::{block_on, block_on_stream};
use futures::stream::StreamExt;
use halfbyte::backend::cpu::Kernels;
use halfbyte::backend::{Output, Program, Step, Ticket};
use halfbyte::engine::{
    Device, Engine, EngineOptions, Finish, GenerateOptions, Loaded, SamplerOptions, Session, Token, TokenStream,
};
use halfbyte::{Error, Result};

use crate::common::{as_its_program, golden, real_model};

/// The reference kernels: a row has the same bits in any step, so that texts can be compared.
fn cpu() -> EngineOptions {
    let kernels = Some(Kernels::Reference);
    EngineOptions { device: Device::Cpu, threads: Some(2), n_ctx: Some(256), kernels, ..EngineOptions::default() }
}

fn tiny(options: &EngineOptions) -> Engine {
    Engine::load(&golden("tiny/llama-f32.gguf"), options).expect("the tiny model loads")
}

/// The prompt of the tiny models' golden data, and llama.cpp's greedy continuation.
fn tiny_golden() -> (Vec<u32>, Vec<u32>) {
    let text = std::fs::read_to_string(golden("tiny/llama-f32.json")).expect("golden data");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = |key: &str| serde_json::from_value(json[key].clone()).expect("a list of ids");
    (ids("tokens"), ids("greedy"))
}

fn at_most(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() }
}

fn drawn(seed: u64) -> GenerateOptions {
    let sampler = SamplerOptions { temperature: 1.5, top_k: 50, seed, ..SamplerOptions::default() };
    GenerateOptions { sampler, ..at_most(40) }
}

/// All tokens of a stream, and how it ended.
fn all(mut stream: TokenStream) -> (Vec<Token>, Option<Finish>) {
    let tokens = block_on_stream(&mut stream).collect::<Result<_>>().expect("no error");
    (tokens, stream.finish())
}

fn ids(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    all(session.generate(prompt, options)).0.iter().map(|t| t.id).collect()
}

fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|t| t.text.as_str()).collect()
}

#[test]
fn greedy_is_llama_cpps() {
    let (prompt, expected) = tiny_golden();
    let mut session = tiny(&cpu()).session().expect("a session");
    assert_eq!(ids(&mut session, &prompt, at_most(expected.len())), expected);
}

#[test]
fn three_sessions_at_once_give_what_each_gives_alone() {
    let (prompt, _) = tiny_golden();
    // Of different lengths, with a common start, and with prompts of several steps.
    let long: Vec<u32> = prompt.iter().cycle().take(90).copied().collect();
    let prompts = [&prompt[..], &prompt[..5], &long];
    let options = [at_most(40), drawn(7), drawn(8)];
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .zip(&options)
        .map(|(prompt, options)| ids(&mut tiny(&cpu()).session().expect("a session"), prompt, options.clone()))
        .collect();

    let engine = tiny(&EngineOptions { max_sessions: 3, max_rows: 16, ..cpu() });
    let mut sessions: Vec<Session> = (0..3).map(|_| engine.session().expect("a session")).collect();
    let streams = sessions.iter_mut().zip(prompts).zip(options).map(|((s, prompt), options)| {
        s.generate(prompt, options).map(|token| token.expect("no error").id).collect::<Vec<u32>>()
    });
    let together = block_on(futures::future::join_all(streams));
    assert_eq!(together, alone);
}

#[test]
fn prompts_in_pieces_give_the_same_tokens() {
    let (prompt, _) = tiny_golden();
    let of = |max_rows| {
        let mut session = tiny(&EngineOptions { max_rows, ..cpu() }).session().expect("a session");
        ids(&mut session, &prompt, at_most(20))
    };
    let whole = of(512);
    assert_eq!(of(7), whole);
    assert_eq!(of(1), whole);
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let (prompt, _) = tiny_golden();
    let mut session = tiny(&cpu()).session().expect("a session");
    let first = ids(&mut session, &prompt, at_most(10));
    let conversation = [&prompt[..], &first, &[5, 6, 7]].concat();

    let mut stream = session.generate(&conversation, at_most(10));
    let second: Vec<u32> = block_on_stream(&mut stream).map(|t| t.expect("no error").id).collect();
    // The last token of the first answer was never run.
    assert_eq!(stream.timings().n_prompt, conversation.len());
    assert_eq!(stream.timings().n_reused, prompt.len() + first.len() - 1);

    let mut fresh = tiny(&cpu()).session().expect("a session");
    assert_eq!(second, ids(&mut fresh, &conversation, at_most(10)));
}

#[test]
fn sessions_share_a_common_start() {
    let (prompt, _) = tiny_golden();
    let start: Vec<u32> = prompt.iter().cycle().take(70).copied().collect();
    let engine = tiny(&EngineOptions { max_sessions: 2, ..cpu() });
    let (mut a, mut b) = (engine.session().expect("a session"), engine.session().expect("a session"));
    let alone = ids(&mut a, &[&start[..], &[9]].concat(), at_most(8));
    let mut stream = b.generate(&[&start[..], &[9]].concat(), at_most(8));
    let shared: Vec<u32> = block_on_stream(&mut stream).map(|t| t.expect("no error").id).collect();
    assert_eq!(stream.timings().n_reused, 64, "two full pages");
    assert_eq!(shared, alone);
    // A closed session leaves what it had for others to find.
    drop((a, b));
    let mut c = engine.session().expect("a place is free again");
    let mut stream = c.generate(&start, at_most(1));
    block_on_stream(&mut stream).for_each(drop);
    assert_eq!(stream.timings().n_reused, 64);
}

#[test]
fn a_dropped_stream_stops_and_a_slow_reader_holds_up_nobody() {
    let (prompt, _) = tiny_golden();
    let engine = tiny(&EngineOptions { max_sessions: 2, ..cpu() });
    let (mut a, mut b) = (engine.session().expect("a session"), engine.session().expect("a session"));
    // Nobody reads this one: it fills its channel and waits.
    let slow = a.generate(&prompt, at_most(60));
    let expected = ids(&mut b, &prompt, at_most(60));
    assert_eq!(expected.len(), 60);
    // It goes on where it waited.
    let (tokens, finish) = all(slow);
    assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), expected);
    assert_eq!(finish, Some(Finish::MaxTokens));

    let mut dropped = a.generate(&prompt, at_most(60));
    block_on(dropped.next()).expect("a token").expect("no error");
    drop(dropped);
    assert_eq!(ids(&mut a, &prompt, at_most(60)), expected);
}

#[test]
fn another_answer_or_the_end_of_the_session_cancels() {
    let (prompt, _) = tiny_golden();
    let engine = tiny(&cpu());
    let mut session = engine.session().expect("a session");
    let first = session.generate(&prompt, at_most(60));
    let second = session.generate(&prompt, at_most(60));
    assert_eq!(all(first).1, Some(Finish::Cancelled));
    drop(session);
    assert_eq!(all(second).1, Some(Finish::Cancelled));
}

#[test]
fn the_number_of_sessions_is_bounded() {
    let engine = tiny(&cpu());
    let session = engine.session().expect("a session");
    assert!(matches!(engine.session(), Err(Error::Usage { .. })));
    drop(session);
    assert!(engine.session().is_ok());
}

#[test]
fn the_context_fills_up() {
    let (prompt, _) = tiny_golden();
    let engine = tiny(&EngineOptions { n_ctx: Some(prompt.len() + 6), ..cpu() });
    let mut session = engine.session().expect("a session");
    let (tokens, finish) = all(session.generate(&prompt, GenerateOptions::default()));
    assert_eq!((tokens.len(), finish), (6, Some(Finish::ContextFull)));

    let full: Vec<u32> = prompt.iter().cycle().take(prompt.len() + 6).copied().collect();
    let mut stream = session.generate(&full, GenerateOptions::default());
    let error = block_on(stream.next()).expect("an item").expect_err("no room");
    assert!(matches!(error, Error::ContextFull { needed, n_ctx } if needed == n_ctx + 1), "{error}");
    assert!(block_on(stream.next()).is_none());
    assert_eq!(stream.finish(), None);
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let mut session = tiny(&cpu()).session().expect("a session");
    let mut refused = |prompt: &[u32]| {
        let error = block_on(session.generate(prompt, at_most(1)).next()).expect("an item").expect_err("refused");
        error.to_string()
    };
    assert_eq!(refused(&[]), "the prompt has no tokens");
    assert_eq!(refused(&[1, 288]), "token 288 is not in the vocabulary of 288");
}

#[test]
fn no_tokens_are_generated_when_none_are_asked_for() {
    let mut session = tiny(&cpu()).session().expect("a session");
    assert_eq!(all(session.generate(&[1], at_most(0))), (vec![], Some(Finish::MaxTokens)));
}

#[test]
fn a_seed_gives_the_same_tokens_again() {
    let (prompt, _) = tiny_golden();
    let mut session = tiny(&cpu()).session().expect("a session");
    let first = ids(&mut session, &prompt, drawn(1));
    assert_eq!(ids(&mut session, &prompt, drawn(1)), first);
    assert_ne!(ids(&mut session, &prompt, drawn(2)), first);
}

#[test]
fn a_strong_presence_penalty_leaves_no_token_twice() {
    let (prompt, _) = tiny_golden();
    let mut session = tiny(&cpu()).session().expect("a session");
    let sampler = SamplerOptions { presence_penalty: 1000.0, penalty_last_n: 256, ..SamplerOptions::default() };
    let tokens = ids(&mut session, &prompt, GenerateOptions { sampler, ..at_most(60) });
    let mut seen = [&prompt[..], &tokens].concat();
    seen.sort_unstable();
    let n = seen.len();
    seen.dedup();
    let mut of_prompt = prompt.clone();
    of_prompt.sort_unstable();
    of_prompt.dedup();
    assert_eq!(n - seen.len(), prompt.len() - of_prompt.len(), "what comes twice came twice in the prompt");
    assert_eq!(tokens.len(), 60);
}

#[test]
fn a_stop_string_across_tokens_never_shows() {
    let engine = Engine::load(&real_model("SmolLM2-135M-Instruct.Q4_1.gguf"), &cpu()).expect("the model loads");
    let prompt = engine.tokenizer().encode_prompt("The first man on the moon was").expect("a text");
    let mut session = engine.session().expect("a session");
    let mut of = |stop: &[&str]| {
        let stop = stop.iter().map(ToString::to_string).collect();
        all(session.generate(&prompt, GenerateOptions { stop, ..at_most(9) }))
    };
    let (tokens, finish) = of(&[]);
    assert_eq!((text(&tokens).as_str(), finish), (" named Neil Armstrong.\n\nThe moon is", Some(Finish::MaxTokens)));
    // Within a token, and across two.
    let (tokens, finish) = of(&["Neil Arm"]);
    assert_eq!((text(&tokens).as_str(), finish), (" named ", Some(Finish::StopString)));
    let (tokens, finish) = of(&["never", ".\n\n"]);
    assert_eq!((text(&tokens).as_str(), finish), (" named Neil Armstrong", Some(Finish::StopString)));
    // What looked like one, and was none, is shown.
    let (tokens, finish) = of(&["Armstrong!"]);
    assert_eq!((text(&tokens).as_str(), finish), (" named Neil Armstrong.\n\nThe moon is", Some(Finish::MaxTokens)));
    // So is what is held back at the end.
    let (tokens, _) = of(&["is no"]);
    assert_eq!(text(&tokens), " named Neil Armstrong.\n\nThe moon is");
}

/// A real program that fails at a given step.
struct Failing {
    program: Box<dyn Program>,
    steps_left: Arc<AtomicUsize>,
    how: fn() -> Result<Output>,
}

impl Program for Failing {
    fn run(&mut self, step: &Step<'_>) -> Result<Output> {
        match self.steps_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
            Ok(_) => self.program.run(step),
            Err(_) => (self.how)(),
        }
    }
    as_its_program!();
}

fn failing(path: &Path, n_steps: usize, how: fn() -> Result<Output>) -> Engine {
    let options = EngineOptions { max_sessions: 2, ..cpu() };
    let Loaded { program, tokenizer, facts } = Loaded::open(path, &options, &mut |_, _| {}).expect("it loads");
    let program = Box::new(Failing { program, steps_left: Arc::new(n_steps.into()), how });
    Engine::start(Loaded { program, tokenizer, facts }).expect("a thread")
}

/// A real program whose first two steps last until nobody waits for them.
struct Lasting {
    program: Box<dyn Program>,
    n_begun: Arc<AtomicUsize>,
}

impl Program for Lasting {
    fn run(&mut self, step: &Step<'_>) -> Result<Output> {
        self.program.run(step)
    }
    fn submit_while(&mut self, step: &Step<'_>, is_wanted: &dyn Fn() -> bool) -> Result<Option<Ticket>> {
        if self.n_begun.fetch_add(1, Ordering::Relaxed) >= 2 {
            return self.program.submit_while(step, is_wanted);
        }
        let start = Instant::now();
        while is_wanted() {
            assert!(start.elapsed() < Duration::from_secs(60), "somebody still waits");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }
    as_its_program!();
}

#[test]
fn a_step_that_nobody_waits_for_is_given_up() {
    let (prompt, greedy) = tiny_golden();
    let options = EngineOptions { max_sessions: 2, ..cpu() };
    let Loaded { program, tokenizer, facts } =
        Loaded::open(&golden("tiny/llama-f32.gguf"), &options, &mut |_, _| {}).expect("it loads");
    let n_begun = Arc::new(AtomicUsize::new(0));
    let wait_for = |n| {
        while n_begun.load(Ordering::Relaxed) < n {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let program = Box::new(Lasting { program, n_begun: n_begun.clone() });
    let engine = Engine::start(Loaded { program, tokenizer, facts }).expect("a thread");
    let (mut a, mut b) = (engine.session().expect("a session"), engine.session().expect("a session"));
    let stream = a.generate(&prompt, at_most(1));
    wait_for(1);
    drop(stream);
    let mut stream = a.generate(&prompt, at_most(1));
    wait_for(2);
    stream.cancel();
    assert_eq!((stream.finish(), block_on(stream.next()).is_none()), (None, true));
    // What was given up has left nothing behind, in its own session or another.
    assert_eq!(ids(&mut a, &prompt, at_most(greedy.len())), greedy);
    assert_eq!(ids(&mut b, &prompt, at_most(greedy.len())), greedy);
}

/// The error at the end of a stream.
fn error(stream: TokenStream) -> Error {
    block_on_stream(stream).find_map(Result::err).expect("an error")
}

#[test]
fn an_error_of_the_device_reaches_every_session_and_nothing_hangs() {
    let lost = || Err(Error::DeviceLost { adapter: "test".into(), what: "unplugged".into() });
    let engine = failing(&golden("tiny/llama-f32.gguf"), 30, lost);
    let (mut a, mut b) = (engine.session().expect("a session"), engine.session().expect("a session"));
    let (of_a, of_b) = (a.generate(&[1, 2, 3], at_most(200)), b.generate(&[4, 5], at_most(200)));
    for error in [error(of_a), error(of_b), error(a.generate(&[1], at_most(1)))] {
        assert_eq!(error.to_string(), "the engine has stopped: GPU `test` was lost: unplugged");
        assert!(error.hint().expect("a hint").contains("--device cpu"));
    }
}

#[test]
fn a_panic_of_the_device_reaches_every_session_and_nothing_hangs() {
    let engine = failing(&golden("tiny/llama-f32.gguf"), 3, || panic!("a bug, for this test"));
    let mut session = engine.session().expect("a session");
    assert!(matches!(error(session.generate(&[1, 2, 3], at_most(200))), Error::EngineEnded));
    assert!(matches!(error(session.generate(&[1, 2, 3], at_most(200))), Error::EngineEnded));
}

#[test]
fn a_plan_that_needs_more_memory_than_there_is_is_refused() {
    let options = EngineOptions { n_ctx: Some(1 << 31), ..cpu() };
    let Err(error) = Engine::load(&golden("tiny/llama-f32.gguf"), &options) else { panic!("a context of 2^31") };
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
}

#[test]
fn a_program_takes_no_more_than_was_planned() {
    let models = [golden("tiny/gemma3-q8_0.gguf"), real_model("SmolLM2-135M-Instruct.Q4_1.gguf")];
    for (device, path) in [Device::Cpu, Device::Gpu].iter().flat_map(|d| models.iter().map(move |m| (d, m))) {
        let options = EngineOptions { device: device.clone(), max_sessions: 2, ..cpu() };
        let Loaded { program, facts, .. } = Loaded::open(path, &options, &mut |_, _| {}).expect("it loads");
        let (taken, planned) = (program.info().memory, facts.memory);
        // Weights are rounded up to the alignment of bindings.
        assert!(taken.weights_bytes <= planned.weights_bytes + 4096, "{device:?}: {taken:?}, {planned:?}");
        assert!(taken.kv_bytes <= planned.kv_bytes, "{device:?}: {taken:?}, {planned:?}");
        assert!(taken.scratch_bytes <= planned.scratch_bytes, "{device:?}: {taken:?}, {planned:?}");
    }
}
