//! Tests of chat templates: what Python's Jinja2 renders with real ones, what ours are, and templates that are wrong.

use std::collections::BTreeMap;

use halfbyte::Error;
use halfbyte::chat::{BUILTIN, Builtin, Message, RenderOptions, Template};
use halfbyte::tokenizer::{self, VocabSource};
use serde::Deserialize;
use serde_json::Value;

use crate::common::golden;

#[derive(Deserialize)]
struct Golden {
    cases: BTreeMap<String, Case>,
    bos_token: String,
    eos_token: String,
    now: String,
    templates: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Value>,
    add_generation_prompt: Option<bool>,
}

#[derive(Deserialize)]
struct Expected {
    template: String,
    expect: BTreeMap<String, Outcome>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Text(String),
    Error { error: String },
}

#[test]
fn real_templates_give_what_python_gives() {
    let text = std::fs::read_to_string(golden("chat/templates.json")).expect("golden data");
    let golden: Golden = serde_json::from_str(&text).expect("golden data is of this form");
    let (mut n, mut wrong) = (0, Vec::new());
    for (name, Expected { template, expect }) in &golden.templates {
        let template = Template::new(template, &golden.bos_token, &golden.eos_token);
        for (case, expected) in expect {
            let Case { messages, tools, add_generation_prompt } = &golden.cases[case];
            let options = RenderOptions {
                tools: tools.clone(),
                add_generation_prompt: add_generation_prompt.unwrap_or(true),
                now: Some(golden.now.parse().expect("a time")),
                ..RenderOptions::default()
            };
            let found = match template.as_ref().map(|template| template.render(messages, &options)) {
                Ok(Ok(text)) => Outcome::Text(text),
                Ok(Err(Error::ChatTemplate { what })) => Outcome::Error { error: what },
                Ok(Err(other)) => panic!("{name}, {case}: {other}"),
                Err(error) => panic!("{name}: {error}"),
            };
            n += 1;
            if found != *expected {
                wrong.push(format!("{name}, {case}:\n{found:?}\nshould be\n{expected:?}"));
            }
        }
    }
    assert_eq!(n, 132);
    assert!(wrong.is_empty(), "{} of {n} differ\n{}", wrong.len(), wrong.join("\n"));
}

/// `<s>` 0, `</s>` 1, `<|im_end|>` 2.
fn vocab() -> VocabSource<'static> {
    VocabSource {
        model: "gpt2",
        tokens: vec![b"<s>", b"</s>", b"<|im_end|>"],
        token_type: Some(vec![3, 3, 3]),
        merges: Some(vec![]),
        bos_token_id: Some(0),
        eos_token_id: Some(1),
        ..VocabSource::default()
    }
}

fn builtin(name: &str) -> Template {
    let tokenizer = tokenizer::build(vocab()).expect("a vocabulary");
    Template::builtin(Builtin::by_name(name).expect("a template of ours"), tokenizer.as_ref())
}

/// What their makers wrote down, for two turns with a system message, and for a first question.
#[test]
fn our_templates_are_those_of_their_makers() {
    let long = [Message::system("S"), Message::user("U"), Message::assistant("A"), Message::user("V")];
    let expected = [
        ("alpaca", "<s>S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n"),
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]"),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]"),
        ("vicuna", "<s>S USER: U ASSISTANT: A</s>USER: V ASSISTANT:"),
        ("zephyr", "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n"),
    ];
    assert_eq!(expected.map(|(name, _)| name), Builtin::names().collect::<Vec<_>>()[..]);
    for (name, text) in expected {
        assert_eq!(builtin(name).render(&long, &RenderOptions::default()).expect("it renders"), text, "{name}");
    }
    let first = [
        (
            "alpaca",
            "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nU\n\n### Response:\n",
        ),
        ("llama2", "<s>[INST] U [/INST]"),
        ("mistral", "<s>[INST] U [/INST]"),
        (
            "vicuna",
            "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: U ASSISTANT:",
        ),
    ];
    for (name, text) in first {
        let found = builtin(name).render(&[Message::user("U")], &RenderOptions::default());
        assert_eq!(found.expect("it renders"), text, "{name}");
    }
    // Without a prompt for an answer, and on content with the white space that the real ones trim.
    let done = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    assert_eq!(
        builtin("chatml").render(&[Message::user("U")], &done).expect("it renders"),
        "<|im_start|>user\nU<|im_end|>\n"
    );
}

/// Ours for Llama 3 and Gemma say what the real ones do, but for what these say about dates and tools.
#[test]
fn our_templates_are_the_real_ones() {
    let text = std::fs::read_to_string(golden("chat/templates.json")).expect("golden data");
    let golden: Golden = serde_json::from_str(&text).expect("golden data is of this form");
    for (name, real) in [("gemma", "google-gemma-2-2b-it"), ("chatml", "Qwen-Qwen3-0.6B")] {
        let Outcome::Text(expected) = &golden.templates[real].expect["user"] else { panic!("{real} is a text") };
        let found = builtin(name).render(&golden.cases["user"].messages, &RenderOptions::default());
        assert_eq!(found.expect("it renders"), *expected, "{name}");
    }
}

#[test]
fn our_templates_are_found_by_any_spelling() {
    for (spelled, name) in [("Llama-2", "llama2"), ("CHATML", "chatml"), ("llama_3", "llama3")] {
        assert_eq!(Builtin::by_name(spelled).map(|b| b.name), Some(name));
    }
    assert!(Builtin::by_name("klingon").is_none());
}

#[test]
fn ends_of_turns_are_stop_strings_where_they_are_no_tokens() {
    assert_eq!(builtin("chatml").stop(), [] as [&str; 0], "the vocabulary has a token for it");
    assert_eq!(builtin("gemma").stop(), ["<end_of_turn>"]);
    assert_eq!(builtin("vicuna").stop(), ["USER:"]);
}

fn render(source: &str) -> Result<String, Error> {
    Template::new(source, "<s>", "</s>")?.render(&[Message::user("hi")], &RenderOptions::default())
}

#[test]
fn templates_that_are_wrong_say_where() {
    let error = |source: &str| render(source).expect_err("it is wrong").to_string();
    assert_eq!(
        error("{% for m in messages %}\n{{ m.content "),
        "chat template: line 2: syntax error: unexpected end of input, expected end of variable block"
    );
    assert_eq!(
        error("\n\n{{ messages[0].content | nothing }}"),
        "chat template: line 3: unknown filter: filter nothing is unknown"
    );
    assert_eq!(error("{{ raise_exception('No, ' + messages[0].content) }}"), "chat template: No, hi");
    let macros = "{% macro no(x) %}{{ raise_exception('No, ' + x) }}{% endmacro %}{{ no('not in a macro') }}";
    assert_eq!(error(macros), "chat template: No, not in a macro");
    assert!(
        error("{{ strftime_now('%Q') }}").contains("strftime_now(\"%Q\")"),
        "{}",
        error("{{ strftime_now('%Q') }}")
    );
    assert!(error("{{ nowhere | tojson }}").contains("JSON has no room for undefined values"));
}

/// A template from a stranger takes neither all time nor all memory.
#[test]
fn templates_cannot_run_for_ever() {
    let loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(render(loops).expect_err("it is too much").to_string().contains("fuel"));
    let grows =
        "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    assert!(render(grows).expect_err("it is too much").to_string().contains("fuel"));
    let wide = "{{ [1, 2] | tojson(indent=1000000000) }}";
    assert!(render(wide).expect_err("it is too much").to_string().contains("more than 64 spaces"));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recursive).expect_err("it is too deep").to_string().contains("recursion"));
}

#[test]
fn templates_find_what_they_know_from_python() {
    let cases = [
        ("{{ {'b': 1, 'a': [true, none, 1.5]} | tojson }}", r#"{"b": 1, "a": [true, null, 1.5]}"#),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", r#"{"a":2,"b":1}"#),
        ("{{ ['<é>'] | tojson(ensure_ascii=true) }}", r#"["<\u00e9>"]"#),
        ("{{ ' a b '.strip().split(' ')[-1].upper() }}", "B"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}{{ bos_token }}", "<s>"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ 'x' is iterable }}{{ none is iterable }}{{ nowhere is iterable }}", "TrueFalseFalse"),
        (
            "{{ true }} {{ none }} {{ 1.5 }} {{ ['a', 1.0, none] }} {{ {'k': true} }}",
            "True None 1.5 ['a', 1.0, None] {'k': True}",
        ),
        ("{{ strftime_now('%Y') | length }}", "4"),
        // A string that went through `safe` escapes what is added to it, and nothing else does.
        ("{{ '<'|safe + '<&>\"\\'' }}{{ '<' + '>' }}{{ '<'|safe }}", "<&lt;&amp;&gt;&#34;&#39;<><"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
}

#[test]
fn variables_reach_the_template() {
    let template = Template::new("{{ enable_thinking }}{{ tools is none }}", "", "").expect("a template");
    let variables = serde_json::json!({ "enable_thinking": false });
    let options =
        RenderOptions { variables: variables.as_object().expect("an object").clone(), ..RenderOptions::default() };
    assert_eq!(template.render(&[], &options).expect("it renders"), "FalseTrue");
}

#[test]
fn the_hint_names_our_templates() {
    let hint = render("{{").expect_err("it is wrong").hint().expect("a hint");
    assert!(BUILTIN.iter().all(|b| hint.contains(b.name)), "{hint}");
}
