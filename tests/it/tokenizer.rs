//! Tests of the tokenizer: llama.cpp's ids for llama.cpp's vocabularies and for the real models, the way back to text, and
//! files that lie.

mod hostile;

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use flate2::read::GzDecoder;
use halfbyte::Error;
use halfbyte::gguf::Gguf;
use halfbyte::quant::SharedBytes;
use halfbyte::tokenizer::{self, Detokenizer, Tokenizer, VocabSource};
use proptest::prelude::*;
use serde_json::Value;

use crate::common;

type Shared = LazyLock<Arc<dyn Tokenizer>>;

static GPT2: Shared = LazyLock::new(|| vocab_only("gpt-2"));
static LLAMA_BPE: Shared = LazyLock::new(|| vocab_only("llama-bpe"));
static QWEN2: Shared = LazyLock::new(|| vocab_only("qwen2"));
static DEEPSEEK_CODER: Shared = LazyLock::new(|| vocab_only("deepseek-coder"));
static STARCODER: Shared = LazyLock::new(|| vocab_only("starcoder"));
static PHI3: Shared = LazyLock::new(|| vocab_only("phi-3"));
static LLAMA_SPM: Shared = LazyLock::new(|| vocab_only("llama-spm"));
static SMOLLM2: Shared = LazyLock::new(|| of_model("SmolLM2-135M-Instruct.Q4_1.gguf"));
static GEMMA3: Shared = LazyLock::new(|| of_model("gemma-3-270m-Q4_K_M.gguf"));

/// The tokenizer of one of llama.cpp's vocabulary-only files.
fn vocab_only(name: &str) -> Arc<dyn Tokenizer> {
    tokenizer::from_gguf(&vocab_gguf(name)).expect("the vocabulary is supported")
}

/// The contents of a packed file of golden data.
fn unpacked(name: &str) -> Vec<u8> {
    let packed = std::fs::read(common::golden(name)).expect("golden data is there");
    let mut bytes = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("golden data is gzip");
    bytes
}

fn vocab_gguf(name: &str) -> Gguf {
    let bytes = unpacked(&format!("vocab/{name}.gguf.gz"));
    Gguf::from_bytes(SharedBytes::new(Arc::new(bytes)), Path::new(name)).expect("golden data is GGUF")
}

fn of_model(file: &str) -> Arc<dyn Tokenizer> {
    let gguf = Gguf::open(&common::real_model(file)).expect("the model is GGUF");
    tokenizer::from_gguf(&gguf).expect("the vocabulary is supported")
}

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(common::golden(name)).expect("golden data is there");
    serde_json::from_str(&text).expect("golden data is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

fn encode(t: &Shared, text: &str) -> Vec<u32> {
    t.encode(text, false).expect("short text can be encoded")
}

fn decode(t: &Shared, ids: &[u32]) -> String {
    t.decode(ids).expect("ids of this vocabulary can be decoded")
}

#[track_caller]
fn check_llama_cpp_cases(name: &str, t: &Shared) {
    let texts = std::fs::read_to_string(common::golden("vocab/cases.inp")).expect("golden data is there");
    let lists = std::fs::read_to_string(common::golden(&format!("vocab/{name}.out"))).expect("golden data is there");
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let lists: Vec<&str> = lists.lines().collect();
    // The separator also ends the last case.
    assert_eq!((texts.len(), lists.len()), (47, 46));
    for (text, list) in texts.iter().zip(&lists) {
        let expected: Vec<u32> = list.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        assert_eq!(encode(t, text), expected, "{text:?}");
        assert_eq!(decode(t, &expected), *text);
    }
}

#[test]
fn gpt2_has_llama_cpps_ids() {
    check_llama_cpp_cases("gpt-2", &GPT2);
}

#[test]
fn llama_bpe_has_llama_cpps_ids() {
    check_llama_cpp_cases("llama-bpe", &LLAMA_BPE);
}

#[test]
fn qwen2_has_llama_cpps_ids() {
    check_llama_cpp_cases("qwen2", &QWEN2);
}

#[test]
fn llama_spm_has_llama_cpps_ids() {
    check_llama_cpp_cases("llama-spm", &LLAMA_SPM);
}

#[test]
fn deepseek_coder_has_llama_cpps_ids() {
    check_llama_cpp_cases("deepseek-coder", &DEEPSEEK_CODER);
}

#[test]
fn starcoder_has_llama_cpps_ids() {
    check_llama_cpp_cases("starcoder", &STARCODER);
}

#[test]
fn phi3_has_llama_cpps_ids() {
    check_llama_cpp_cases("phi-3", &PHI3);
}

/// A vocabulary of all bytes and all pairs of bytes, merged in a mixed order: where a text is cut shows in its ids.
fn pairs() -> (Vec<String>, Vec<String>) {
    let names: Vec<String> = (0..=255).map(spelled).collect();
    let mut ordered: Vec<usize> = (0..65_536).collect();
    ordered.sort_by_key(|pair| pair * 40_503 % 65_536);
    let pair = |&pair: &usize| (&names[pair / 256], &names[pair % 256]);
    let merges = ordered.iter().map(pair).map(|(left, right)| format!("{left} {right}")).collect();
    let joined: Vec<String> = ordered.iter().map(pair).map(|(left, right)| format!("{left}{right}")).collect();
    ([names, joined].concat(), merges)
}

/// Texts of many scripts, cut in every way that llama.cpp has a name for: as it does, or as the models' own patterns do where it
/// has others for want of classes of Unicode.
#[test]
fn all_schemes_cut_as_the_originals_do() {
    let golden: Value = serde_json::from_slice(&unpacked("vocab/schemes.json.gz")).expect("golden data is JSON");
    let texts = golden["texts"].as_array().expect("a list");
    let (tokens, merges) = pairs();
    let (mut n, mut wrong) = (0, Vec::new());
    for (names, lists) in golden["schemes"].as_array().expect("a list").iter().map(|s| (&s["names"], &s["ids"])) {
        for name in names.as_array().expect("a list") {
            let source = VocabSource {
                model: "gpt2",
                pre: name.as_str(),
                tokens: tokens.iter().map(String::as_bytes).collect(),
                merges: Some(merges.iter().map(String::as_bytes).collect()),
                add_bos_token: Some(false),
                ..VocabSource::default()
            };
            let t = tokenizer::build(source).expect("the scheme is supported");
            for (text, expected) in texts.iter().zip(lists.as_array().expect("a list")) {
                let text = text.as_str().expect("a text");
                let found = t.encode(text, false).expect("short text can be encoded");
                n += 1;
                if found != ids(expected) {
                    let texts = |ids: &[u32]| ids.iter().map(|&id| t.token_text(id)).collect::<Vec<_>>().join("|");
                    wrong.push(format!("{name}\n  {}\n  {}", texts(&found), texts(&ids(expected))));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {n} differ\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(n, 86 * 61);
}

/// Phi-3's tokens take the white space behind them, but for three.
#[test]
fn tokens_take_white_space_with_them() {
    let special = |text: &str| PHI3.encode(text, true).expect("short");
    assert_eq!(special("<|user|> \n\thi<|end|>\n<|assistant|>\n"), special("<|user|>hi<|end|><|assistant|>"));
    assert_ne!(special("<s> hi"), special("<s>hi"));
    assert_ne!(special("hi <|end|>"), special("hi<|end|>"));
    // Of a user-defined token it is so in any text.
    assert_eq!(encode(&PHI3, "a</s>  b"), encode(&PHI3, "a</s>b"));
    let mask = VocabSource { tokens: vec![b"a", b"b", b"ab", "Ġ".as_bytes(), b"<mask>", b"c"], ..tiny_bpe() };
    let of = |model_name| tokenizer::build(VocabSource { model_name, ..mask.clone() }).expect("a vocabulary");
    assert_eq!(of(Some("jina-v2")).encode("a <mask> b", true).expect("short"), [0, 4, 3, 1]);
    assert_eq!(of(None).encode("a <mask> b", true).expect("short"), [0, 3, 4, 3, 1]);
}

/// A file that names no pre-tokenizer gets llama.cpp's default one.
#[test]
fn default_pre_tokenizer_has_llama_cpps_ids() {
    let gguf = vocab_gguf("gpt-2");
    let tokens = gguf.metadata().strings("tokenizer.ggml.tokens").expect("GPT-2 has tokens");
    let merges = gguf.metadata().strings("tokenizer.ggml.merges").expect("GPT-2 has merges");
    let source = VocabSource {
        model: "gpt2",
        tokens: tokens.iter().collect(),
        merges: Some(merges.iter().collect()),
        ..VocabSource::default()
    };
    let t = tokenizer::build(source).expect("the vocabulary is supported");
    for case in json("vocab/gpt-2.default.json").as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        assert_eq!(t.encode(text, false).expect("short text can be encoded"), ids(&case["tokens"]), "{case}");
    }
}

#[track_caller]
fn check_model(name: &str, t: &Shared, runs: &[&str]) {
    for case in json(&format!("vocab/{name}.json")).as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let found = t.encode(text, case["parse_special"] == true).expect("short text can be encoded");
        assert_eq!(found, ids(&case["tokens"]), "{case}");
    }
    for run in runs {
        let run = json(&format!("{name}-{run}.json"));
        let prompt = run["prompt"].as_str().expect("a text");
        assert_eq!(t.encode_prompt(prompt).expect("a prompt"), ids(&run["tokens"]), "{prompt:?}");
        let mut text = String::new();
        let mut detokenizer = Detokenizer::new(Arc::clone(t));
        for id in ids(&run["greedy"]) {
            text += detokenizer.push(id).expect("ids of the model");
        }
        text += detokenizer.finish();
        assert_eq!(text, run["greedy_text"]);
    }
}

#[test]
fn smollm2_has_llama_cpps_ids() {
    check_model("smollm2", &SMOLLM2, &["moon", "long", "chat"]);
}

#[test]
fn gemma3_has_llama_cpps_ids() {
    check_model("gemma3", &GEMMA3, &["moon", "long"]);
}

#[test]
fn prompts_get_bos_once() {
    assert_eq!(GEMMA3.encode_prompt("hi").expect("a prompt"), GEMMA3.encode_prompt("<bos>hi").expect("a prompt"));
    assert_eq!(GEMMA3.encode_prompt("").expect("a prompt"), [2]);
    assert_eq!(SMOLLM2.encode_prompt("").expect("a prompt"), [] as [u32; 0]);
    // Says nothing about BOS itself; Llama 3 wants it all the same.
    assert_eq!(LLAMA_BPE.encode_prompt("").expect("a prompt"), [128_000]);
    let mut source = tiny_bpe();
    (source.eos_token_id, source.add_eos_token) = (Some(4), Some(true));
    let t = tokenizer::build(source).expect("a vocabulary");
    assert_eq!(t.encode_prompt("ab").expect("a prompt"), [2, 4]);
    assert_eq!(t.encode_prompt("ab<end>").expect("a prompt"), [2, 4]);
}

#[test]
fn special_tokens_end_generation_and_have_no_text() {
    let eog = |t: &Shared| -> Vec<String> { t.special().eog.iter().map(|&id| t.token_text(id).into()).collect() };
    assert_eq!(eog(&SMOLLM2), ["<|endoftext|>", "<|im_end|>", "<reponame>"]);
    assert_eq!(eog(&GEMMA3), ["<eos>", "<end_of_turn>"]);
    assert_eq!(eog(&LLAMA_BPE), ["<|end_of_text|>", "<|eot_id|>"]);
    assert_eq!(eog(&QWEN2), ["<|endoftext|>", "<|im_end|>"]);
    assert_eq!(eog(&GPT2), ["<|endoftext|>"]);
    assert_eq!(eog(&LLAMA_SPM), ["</s>"]);
    assert_eq!(eog(&PHI3), ["<|endoftext|>", "<|end|>"]);
    let end = SMOLLM2.token_id("<|im_end|>").expect("a token of SmolLM2");
    assert!(SMOLLM2.is_eog(end) && SMOLLM2.is_control(end) && SMOLLM2.token_bytes(end).is_empty());
    assert_eq!(SMOLLM2.special().eot, Some(end));
    let the = SMOLLM2.token_id("Ġthe").expect("a token of SmolLM2");
    assert!(!SMOLLM2.is_eog(the) && !SMOLLM2.is_control(the));
    assert_eq!((SMOLLM2.token_bytes(the), SMOLLM2.token_text(the)), (&b" the"[..], "Ġthe"));
    assert_eq!(GEMMA3.token_bytes(GEMMA3.token_id("<0x0A>").expect("a byte token")), b"\n");
    let beyond = SMOLLM2.n_vocab() as u32;
    assert_eq!((SMOLLM2.token_bytes(beyond), SMOLLM2.token_text(beyond)), (&b""[..], ""));
}

/// In vocabularies like that of gpt-oss `<|end|>` ends a message, and what structures an answer is shown.
#[test]
fn an_answer_of_several_messages_is_one() {
    let names: [&[u8]; 6] = [b"<|end|>", b"<|return|>", b"<|call|>", b"<|channel|>", b"a", b"<|endoftext|>"];
    let types = vec![3, 3, 3, 3, 1, 3];
    let source = |n: usize| VocabSource {
        tokens: names.iter().enumerate().map(|(i, &name)| if i < n || i > 2 { name } else { b"" }).collect(),
        token_type: Some(types.clone()),
        merges: Some(vec![]),
        ..tiny_bpe()
    };
    let t = tokenizer::build(source(3)).expect("a vocabulary");
    assert_eq!((&t.special().eog[..], t.special().eot), (&[1, 2, 5][..], Some(5)));
    assert_eq!(t.decode(&[3, 4, 0, 1]).expect("ids of it"), "<|channel|>a<|end|>");
    assert_eq!(t.encode("<|channel|>a", true).expect("short"), [3, 4]);
    assert_eq!(t.encode("<|channel|>a", false).expect("short"), [4, 4], "the `a`s of it");
    let t = tokenizer::build(source(1)).expect("a vocabulary");
    assert_eq!((&t.special().eog[..], t.special().eot), (&[0, 5][..], Some(0)));
}

/// Gemma 4 and a few others spell text as it is: `▁` for spaces, characters that are no tokens in bytes, line breaks whole.
#[test]
fn bpe_can_start_from_characters() {
    let source = VocabSource {
        model: "gemma4",
        pre: None,
        tokens: ["a", "▁", "▁a", "é", "\n", "\n\n", "<0xE2>", "<0x82>", "<end>"].map(str::as_bytes).to_vec(),
        token_type: Some(vec![1, 1, 1, 1, 1, 1, 6, 6, 3]),
        merges: Some(vec!["▁ a".as_bytes()]),
        ..VocabSource::default()
    };
    let t = tokenizer::build(source.clone()).expect("a vocabulary");
    // The last byte of € has no token.
    let (text, ids) = ("a a  aé\n\n\na€", [0, 2, 1, 2, 3, 4, 4, 4, 0, 6, 7]);
    assert_eq!(t.encode(text, false).expect("short"), ids);
    assert_eq!(t.encode("\n\n<end>a", true).expect("short"), [5, 8, 0]);
    assert_eq!(t.decode(&ids[..5]).expect("ids of it"), "a a  aé");
    let plain = VocabSource { model: "gpt2", pre: Some("whitespace"), ..source };
    let t = tokenizer::build(plain).expect("a vocabulary");
    assert_eq!(t.encode("a\néa ", false).expect("short"), [0, 4, 3, 0]);
}

/// A megabyte of anything takes seconds at most: nothing is quadratic.
#[test]
#[expect(clippy::print_stderr, reason = "figures for those who ask for them")]
fn long_texts_take_linear_time() {
    let million = |text: &str| text.repeat(1_000_000 / text.len());
    let texts = ["a", " ", "\n", "0", " a", "'", "<"].map(million);
    for (name, t) in [("llama-bpe", &LLAMA_BPE), ("deepseek-coder", &DEEPSEEK_CODER), ("llama-spm", &LLAMA_SPM)] {
        for text in &texts {
            let start = std::time::Instant::now();
            let n = encode(t, text).len();
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("{name}: a megabyte of {:?} in {seconds:.2} s, {n} tokens", &text[..2]);
            assert!(n > 0 && seconds < 60.0, "{name}: {seconds} s");
        }
    }
}

/// `<|im_end|>` from a user is text; from a template it is the token.
#[test]
fn control_tokens_are_found_only_if_asked() {
    let end = SMOLLM2.token_id("<|im_end|>").expect("a token of SmolLM2");
    let text = "a<|im_end|>";
    assert_eq!(SMOLLM2.encode(text, true).expect("short").last(), Some(&end));
    let as_text = encode(&SMOLLM2, text);
    assert!(!as_text.contains(&end));
    assert_eq!(decode(&SMOLLM2, &as_text), text);
}

/// `a` 0, `b` 1, `ab` 2, `Ġ` 3, `<end>` 4, `<user>` 5.
fn tiny_bpe() -> VocabSource<'static> {
    VocabSource {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec![b"a", b"b", b"ab", "Ġ".as_bytes(), b"<end>", b"<user>"],
        token_type: Some(vec![1, 1, 1, 1, 3, 4]),
        merges: Some(vec![b"a b"]),
        ..VocabSource::default()
    }
}

/// `<unk>` 0, `▁` 1, `a` 2, `▁a` 3, `aa` 4, `<0xC3>` 5, `<s>` 6.
fn tiny_spm() -> VocabSource<'static> {
    VocabSource {
        model: "llama",
        tokens: vec![b"<unk>", "▁".as_bytes(), b"a", "▁a".as_bytes(), b"aa", b"<0xC3>", b"<s>"],
        token_type: Some(vec![2, 1, 1, 1, 1, 6, 3]),
        scores: Some(vec![0.0, -3.0, -4.0, -1.0, -2.0, 0.0, 0.0]),
        bos_token_id: Some(6),
        ..VocabSource::default()
    }
}

#[test]
fn unsayable_bytes_are_left_out_or_unknown() {
    let bpe = tokenizer::build(tiny_bpe()).expect("a vocabulary");
    assert_eq!(bpe.encode("xaby b<user>", false).expect("short"), [2, 3, 1, 5]);
    let spm = tokenizer::build(tiny_spm()).expect("a vocabulary");
    // ▁a before aa, and é as the bytes C3 (which has a token) and A9.
    assert_eq!(spm.encode("aaaé", false).expect("short"), [3, 4, 5, 0]);
}

#[test]
fn spm_puts_a_space_in_front_of_text_and_takes_it_away() {
    let with = tokenizer::build(tiny_spm()).expect("a vocabulary");
    assert_eq!(with.encode("a<s>a a", true).expect("short"), [3, 6, 3, 3]);
    assert_eq!(with.decode(&[6, 3, 3]).expect("ids of it"), "a a");
    let without = VocabSource { add_space_prefix: Some(false), ..tiny_spm() };
    let without = tokenizer::build(without).expect("a vocabulary");
    assert_eq!(without.encode("a<s>a a", true).expect("short"), [2, 6, 2, 3]);
    assert_eq!(without.decode(&[6, 3, 3]).expect("ids of it"), " a a");

    let stream = |mut d: Detokenizer| -> String {
        [6, 3, 3].iter().map(|&id| d.push(id).expect("ids of it").to_owned()).collect()
    };
    assert_eq!(stream(Detokenizer::at_start(Arc::clone(&with))), "a a");
    assert_eq!(stream(Detokenizer::new(with)), " a a", "what follows a prompt keeps its space");
    assert_eq!(stream(Detokenizer::at_start(without)), " a a");
}

#[test]
fn a_character_is_shown_when_its_last_byte_is_there() {
    let crab: Vec<u32> = "<0xF0> <0x9F> <0xA6> <0x80>"
        .split(' ')
        .map(|name| GEMMA3.token_id(name).expect("Gemma has byte tokens"))
        .collect();
    let mut d = Detokenizer::new(Arc::clone(&GEMMA3));
    let shown: Vec<String> = crab.iter().map(|&id| d.push(id).expect("ids of Gemma").into()).collect();
    assert_eq!(shown, ["", "", "", "🦀"]);
    assert_eq!(d.finish(), "");
    // Cut short by a letter, by a new first byte, by the end.
    let a = GEMMA3.token_id("a").expect("a token of Gemma");
    let shown: Vec<String> =
        [crab[0], crab[1], a, crab[0], crab[0], crab[1]].iter().map(|&id| d.push(id).expect("ids").into()).collect();
    assert_eq!(shown, ["", "", "\u{fffd}a", "", "\u{fffd}", ""]);
    assert_eq!(d.finish(), "\u{fffd}");
    assert!(d.push(GEMMA3.n_vocab() as u32).is_err());
}

#[track_caller]
fn refused(source: VocabSource<'_>, message: &str) {
    match tokenizer::build(source) {
        Err(e) => assert!(e.to_string().contains(message), "{e}"),
        Ok(_) => panic!("built, but should have said: {message}"),
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let bpe = tiny_bpe;
    refused(VocabSource { tokens: vec![], ..bpe() }, "0 tokens");
    refused(
        VocabSource { tokens: vec![b"a", b"b", b"ab", b"c", b"a", b"d"], ..bpe() },
        "tokens 0 and 4 are both called \"a\"",
    );
    refused(VocabSource { tokens: vec![b"a", b"b", b"ab", b"\xff", b"x", b"d"], ..bpe() }, "token 3");
    refused(VocabSource { token_type: Some(vec![1, 1]), ..bpe() }, "expected 6 types, one a token, found 2");
    refused(VocabSource { token_type: Some(vec![1, 1, 1, 7, 1, 1]), ..bpe() }, "token 3 has the unknown type 7");
    refused(VocabSource { token_type: Some(vec![1, 6, 1, 1, 1, 1]), ..bpe() }, "token 1 is of the type byte");
    refused(VocabSource { merges: None, ..bpe() }, "tokenizer.ggml.merges");
    refused(VocabSource { merges: Some(vec![b"a b", b"ab"]), ..bpe() }, "merge 1 (\"ab\") is not two tokens");
    refused(VocabSource { merges: Some(vec![b"a x"]), ..bpe() }, "needs \"x\", which is no token");
    refused(VocabSource { merges: Some(vec![b"b a"]), ..bpe() }, "needs \"ba\", which is no token");
    refused(VocabSource { merges: Some(vec![b""]), ..bpe() }, "merge 0 (\"\") is not two tokens");
    refused(VocabSource { merges: Some(vec![b" "]), ..bpe() }, "is not two tokens");
    refused(VocabSource { merges: Some(vec![b"a "]), ..bpe() }, "needs \"\", which is no token");
    refused(VocabSource { eos_token_id: Some(6), ..bpe() }, "expected the id of one of 6 tokens, found 6");
    refused(VocabSource { add_bos_token: Some(true), ..bpe() }, "tokenizer.ggml.bos_token_id");
    refused(VocabSource { scores: None, ..tiny_spm() }, "tokenizer.ggml.scores");
    refused(VocabSource { scores: Some(vec![0.0; 6]), ..tiny_spm() }, "expected 7 scores, one a token, found 6");
    refused(VocabSource { scores: Some(vec![f32::NAN; 7]), ..tiny_spm() }, "the score of token 0 is not a number");
    let no_unknown = VocabSource { tokens: vec![b"a"], token_type: None, scores: Some(vec![0.0]), ..tiny_spm() };
    refused(VocabSource { bos_token_id: None, add_bos_token: Some(false), ..no_unknown }, "no token for byte 0x00");
}

#[test]
fn unknown_kinds_are_named_with_the_known_ones() {
    let error = |source| tokenizer::build(source).expect_err("is not supported");
    let pre = error(VocabSource { pre: Some("klingon"), ..tiny_bpe() });
    assert!(matches!(&pre, Error::UnsupportedTokenizer { found, .. } if found == "klingon"));
    assert_eq!(pre.to_string(), "pre-tokenizer `klingon` is not supported");
    let hint = pre.hint().expect("tells what is known");
    for known in ["default", "gpt-2", "smollm", "llama-bpe", "llama-v3", "llama3", "qwen2"] {
        assert!(hint.contains(known), "{hint}");
        let source = VocabSource { pre: Some(known), add_bos_token: Some(false), ..tiny_bpe() };
        assert_eq!(tokenizer::build(source).expect("is supported").encode("ab", false).expect("short"), [2], "{known}");
    }
    let model = error(VocabSource { model: "rwkv", ..tiny_bpe() });
    assert_eq!(model.to_string(), "tokenizer model `rwkv` is not supported");
    assert_eq!(model.hint().expect("tells what is known"), "supported: tokenizer model gemma4, gpt2, llama");
}

/// Text of all kinds, rich in what pre-tokenizers look at.
fn any_text() -> impl Strategy<Value = String> {
    let piece =
        prop_oneof!["\\PC{0,8}", "[ \\t\\r\\n\u{a0}\u{3000}]{1,4}", "[a-zA-Z']{1,10}", "[0-9٣½]{1,5}", any::<String>()];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn round_trips(t: &Shared, text: &str) -> Result<(), TestCaseError> {
    let ids = encode(t, text);
    prop_assert_eq!(decode(t, &ids), text);
    let mut d = Detokenizer::at_start(Arc::clone(t));
    let mut shown = String::new();
    for id in ids {
        shown += d.push(id).expect("ids of it");
    }
    prop_assert_eq!(d.finish(), "");
    prop_assert_eq!(shown, text);
    Ok(())
}

proptest! {
    #[test]
    fn byte_level_vocabularies_give_any_text_back(text in any_text()) {
        for t in [&GPT2, &LLAMA_BPE, &QWEN2, &DEEPSEEK_CODER, &STARCODER] {
            round_trips(t, &text)?;
        }
        // SmolLM2 can't say some bytes.
        let sayable = |c: &char| c.encode_utf8(&mut [0; 4]).bytes().all(|b| SMOLLM2.token_id(&spelled(b)).is_some());
        round_trips(&SMOLLM2, &text.chars().filter(sayable).collect::<String>())?;
    }

    #[test]
    fn sentencepiece_vocabularies_give_any_text_back(text in any_text()) {
        // U+2581 is how they write a space.
        let text = text.replace('\u{2581}', "");
        for t in [&LLAMA_SPM, &GEMMA3] {
            round_trips(t, &text)?;
        }
    }

    /// In parts or whole: the same lossy text.
    #[test]
    fn streamed_bytes_are_the_lossy_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut d = Detokenizer::new(Arc::clone(&GPT2));
        let mut shown = String::new();
        for &b in &bytes {
            shown += d.push(GPT2.token_id(&spelled(b)).expect("GPT-2 has all bytes")).expect("ids of GPT-2");
        }
        shown += d.finish();
        prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
    }
}

/// GPT-2's spelling of a byte, found by asking GPT-2's vocabulary, whose first 256 tokens are the bytes.
fn spelled(byte: u8) -> String {
    let id = (0..256).find(|&id| GPT2.token_bytes(id) == [byte]).expect("GPT-2 has all bytes");
    GPT2.token_text(id).into()
}
