//! Formats for a limit on quality.

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
fn a_smaller_divergence_takes_more_bytes_and_is_kept() {
    let anything = found(f64::MAX).expect("found");
    assert!(anything.chosen.values().all(|format| format.name == "Q4_0"));
    assert!(anything.kld > 0.0 && anything.kld == anything.floor_kld);
    let (mut last_bytes, mut last_kld) = (n_bytes(&anything), anything.kld);
    for part in [0.5, 0.1, 0.01] {
        let choice = found(part * anything.kld).expect("found");
        let bytes = n_bytes(&choice);
        assert!(choice.kld <= part * anything.kld, "{} is not within {part} of {}", choice.kld, anything.kld);
        assert!(bytes > last_bytes && choice.kld < last_kld, "{bytes} bytes after {last_bytes}");
        (last_bytes, last_kld) = (bytes, choice.kld);
    }
}

#[test]
fn what_cannot_be_kept_is_an_error() {
    let error = found(0.0).expect_err("refused");
    assert!(matches!(error, Error::Usage { .. }) && error.to_string().contains("no choice of formats"), "{error}");
    let options = Options::new(Mix::by_name("Q4_0").expect("a mix"));
    let budget = Budget { max_kld: 0.1, text: "", n_tokens: 24, threads: 1 };
    let error = search(&tiny(), &options, &budget, &mut |_, _, _| ControlFlow::Continue(())).expect_err("refused");
    assert!(error.to_string().contains("no two tokens"), "{error}");
    let budget = Budget { max_kld: 1e-9, text: TEXT, n_tokens: 24, threads: 1 };
    let error = search(&tiny(), &options, &budget, &mut |_, _, _| ControlFlow::Break(())).expect_err("interrupted");
    assert!(matches!(error, Error::Interrupted));
}
