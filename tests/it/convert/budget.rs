//! Formats for a limit on quality.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use halfbyte::Error;
use halfbyte::convert::budget::{Budget, Choice, search};
use halfbyte::convert::quantize::{self, Mix, Options};
use halfbyte::gguf::Gguf;

use crate::common::golden;

const TEXT: &str = "The first man on the moon was Neil Armstrong, who landed there on the 20th of July 1969.";

fn tiny() -> Gguf {
    Gguf::open(&golden("tiny/llama-f32.gguf")).expect("golden data")
}

fn found(max_kld: f64) -> halfbyte::Result<Choice> {
    let options = Options::new(Mix::by_name("Q4_0").expect("a mix"));
    let budget = Budget { max_kld, text: TEXT, n_tokens: 24, threads: 2 };
    search(&tiny(), &options, &budget, &mut |_, _, _| ControlFlow::Continue(()))
}

fn n_bytes(choice: &Choice) -> u64 {
    let options = Options { chosen: choice.chosen.clone(), ..Options::new(Mix::by_name("Q4_0").expect("a mix")) };
    quantize::plan(&tiny(), &options).expect("a plan").n_bytes()
}

#[test]
fn the_worst_format_is_the_one_that_was_asked_for() {
    let anything = found(f64::MAX).expect("found");
    assert!(anything.chosen.values().all(|format| format.name == "Q4_0"));
    assert!(anything.kld > 0.0 && anything.kld == anything.floor_kld);
}

#[test]
fn a_limit_is_kept_and_a_larger_one_never_takes_more_bytes() {
    let floor = found(f64::MAX).expect("found").kld;
    let mut last_bytes = u64::MAX;
    let mut sizes = BTreeSet::new();
    for part in [0.0, 1e-6, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0] {
        let choice = found(part * floor).expect("found");
        let bytes = n_bytes(&choice);
        assert!(choice.kld <= part * floor, "{} is not within {part} of {floor}", choice.kld);
        assert!(bytes <= last_bytes, "{bytes} bytes for {part} of {floor}, after {last_bytes}");
        last_bytes = bytes;
        sizes.insert(bytes);
    }
    assert!(sizes.len() >= 12, "limits make a difference: {sizes:?}");
}

#[test]
fn nothing_at_all_leaves_the_model_as_it_is() {
    let choice = found(0.0).expect("found");
    assert!(choice.chosen.values().all(|format| format.name == "F32"), "{:?}", choice.chosen);
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let options = Options::new(Mix::by_name("Q4_0").expect("a mix"));
    let budget = Budget { max_kld: 0.1, text: "", n_tokens: 24, threads: 1 };
    let error = search(&tiny(), &options, &budget, &mut |_, _, _| ControlFlow::Continue(())).expect_err("refused");
    assert!(error.to_string().contains("no two tokens"), "{error}");
    let budget = Budget { max_kld: 1e-9, text: TEXT, n_tokens: 24, threads: 1 };
    let error = search(&tiny(), &options, &budget, &mut |_, _, _| ControlFlow::Break(())).expect_err("interrupted");
    assert!(matches!(error, Error::Interrupted));
}
