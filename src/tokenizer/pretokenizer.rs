//! Cutting text into the words inside which BPE joins bytes: one row per scheme, by the name that files give it.
//!
//! The schemes are regular expressions published with the models. All end in `\s+(?!\S)|\s+`: a run of white space leaves
//! its last character to the word that follows. That is the one look-ahead they need, so it is done here by hand
//! ([`Stage::Words`]), and the rest runs on an automaton, in time linear in the text whatever it holds.

use std::ops::Range;

use regex_automata::meta::Regex;

use crate::{Error, Result};

/// A scheme: stages that cut what the stage before has left.
#[derive(Debug)]
pub(super) struct Scheme {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// A word that is a token is taken whole, even where merges would not lead to it.
    pub(super) ignore_merges: bool,
    /// Whether BOS is wanted if the file doesn't say.
    pub(super) add_bos: bool,
}

/// One cut. What the pattern matches are words; so is what lies between two matches.
#[derive(Debug)]
enum Stage {
    /// Just the pattern.
    Matches(&'static str),
    /// The pattern, then `\s+(?!\S)|\s+`.
    Words(&'static str),
}

const GPT2_WORDS: Stage = Stage::Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");

/// Every known scheme.
///
/// The patterns are those of the models' `tokenizer.json`, with ASCII in place of `(?i:…)`: U+017F (ſ) is no `s`.
static SCHEMES: &[Scheme] = &[
    Scheme {
        names: &["default"],
        stages: &[
            Stage::Matches(r"[\p{P}$+<=>^~|]+"),
            GPT2_WORDS,
            Stage::Matches(r"\p{N}+"),
            Stage::Matches(r"[0-9][0-9][0-9]"),
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &[
            "gpt-2",
            "phi-2",
            "olmo",
            "mpt",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        stages: &[GPT2_WORDS],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        stages: &[Stage::Matches(r"\p{N}"), GPT2_WORDS],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        stages: &[Stage::Words(
            r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
        ignore_merges: true,
        add_bos: true,
    },
    Scheme {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ],
        stages: &[Stage::Words(
            r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
        ignore_merges: false,
        add_bos: false,
    },
];

impl Scheme {
    /// The scheme that files call `name`; a file that names none gets `default`, as elsewhere.
    ///
    /// # Errors
    /// When no scheme has that name.
    pub(super) fn by_name(name: Option<&str>) -> Result<&'static Scheme> {
        let name = name.unwrap_or("default");
        SCHEMES.iter().find(|s| s.names.contains(&name)).ok_or_else(|| Error::UnsupportedTokenizer {
            part: "pre-tokenizer",
            found: name.into(),
            known: SCHEMES.iter().flat_map(|s| s.names).copied().collect(),
        })
    }
}

/// A scheme, ready to cut.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    cuts: Vec<Cut>,
}

/// A compiled [`Stage`]: of [`Stage::Words`] the white space is the second pattern.
#[derive(Debug)]
struct Cut {
    regex: Regex,
}

impl PreTokenizer {
    pub(super) fn new(scheme: &Scheme) -> Self {
        Self { cuts: scheme.stages.iter().map(Cut::new).collect() }
    }

    /// Replaces `words` by the words of `text`, in order and without gaps.
    pub(super) fn cut(&self, text: &str, words: &mut Vec<Range<usize>>) {
        words.clear();
        words.push(0..text.len());
        for cut in &self.cuts {
            for word in std::mem::take(words) {
                cut.apply(text, word, words);
            }
        }
    }
}

impl Cut {
    fn new(stage: &Stage) -> Self {
        let regex = match stage {
            Stage::Matches(pattern) => Regex::new(pattern),
            Stage::Words(pattern) => Regex::new_many(&[pattern, r"\s+"]),
        };
        Self { regex: regex.expect("patterns of the table are valid") }
    }

    fn apply(&self, text: &str, word: Range<usize>, words: &mut Vec<Range<usize>>) {
        let (base, text) = (word.start, &text[word]);
        let (mut done, mut at) = (0, 0);
        while let Some(found) = self.regex.find(regex_automata::Input::new(text).range(at..)) {
            let mut end = found.end();
            if found.pattern().as_usize() == 1 && end < text.len() {
                end = without_last_char(text, found.range());
            }
            if done < found.start() {
                words.push(base + done..base + found.start());
            }
            words.push(base + found.start()..base + end);
            (done, at) = (end, end);
        }
        if done < text.len() {
            words.push(base + done..base + text.len());
        }
    }
}

/// End of the range without its last character, unless that is its only one.
fn without_last_char(text: &str, range: Range<usize>) -> usize {
    match text[range.clone()].char_indices().next_back() {
        Some((last, _)) if last > 0 => range.start + last,
        _ => range.end,
    }
}
