//! The schemes by which models cut text into words, by the names that files give them.
//!
//! The patterns are those of the models' `tokenizer.json`. Where llama.cpp writes a pattern in another way, since its regular
//! expressions have no classes of Unicode, the original is here. Of `(?i:…)` only ASCII is left: U+017F (ſ) is no `s`.

use super::pretokenizer::Stage;
use crate::{Error, Result};

/// A scheme: stages that cut what the stage before has left.
#[derive(Debug)]
pub(super) struct Scheme {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    pub(super) stages: &'static [Stage],
    pub(super) spelling: Spelling,
    /// Whether a word that is a token is taken whole, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether BOS is wanted if the file doesn't say.
    pub(super) add_bos: bool,
}

/// How a vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Byte by byte, each as a character that can be seen (GPT-2's table).
    Bytes,
    /// As it is; characters that are no tokens are said byte by byte (`<0xE2>`).
    Text,
    /// As it is, but with `▁` for spaces.
    Spaced,
}

impl Scheme {
    const fn new(names: &'static [&'static str], stages: &'static [Stage]) -> Self {
        Self { names, stages, spelling: Spelling::Bytes, ignore_merges: false, add_bos: false }
    }

    const fn spelled(self, spelling: Spelling) -> Self {
        Self { spelling, ..self }
    }

    const fn ignoring_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn with_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    /// The scheme that files call `name`; a file that names none gets `default`, as elsewhere.
    ///
    /// # Errors
    /// When no scheme has that name.
    pub(super) fn by_name(name: Option<&str>) -> Result<&'static Scheme> {
        let name = name.unwrap_or("default");
        SCHEMES.iter().find(|s| s.names.contains(&name)).ok_or_else(|| Error::UnsupportedTokenizer {
            part: "pre-tokenizer",
            found: name.into(),
            known: SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect(),
        })
    }

    /// Every known scheme.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = &'static Scheme> {
        SCHEMES.iter()
    }
}

/// English contractions.
macro_rules! contraction {
    () => {
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    };
}

/// Contractions; letters behind at most one character that is no letter, number or line break; numbers; punctuation with
/// the line breaks behind it; line breaks.
macro_rules! words {
    ($number:literal) => {
        concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|", $number, r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")
    };
}

/// As `words`, but a word ends where small letters end: `camelCase` is two. A contraction is part of its word, if `$ending`
/// allows it; `$upper` and `$lower` are classes of letters.
macro_rules! cased_words {
    ($ending:expr, $number:literal, $rest:literal) => {
        cased_words!(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", $ending, $number, $rest)
    };
    ($upper:literal, $lower:literal, $ending:expr, $number:literal, $rest:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $ending,
            "|",
            $number,
            "|",
            $rest
        )
    };
}

/// `cased_words` as the tokenizers of OpenAI have them since GPT-4o.
macro_rules! gpt_4o_words {
    ($number:literal) => {
        cased_words!(concat!("(?:", contraction!(), ")?"), $number, r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+")
    };
}

/// What several schemes of DeepSeek's kind end with: letters with the ASCII punctuation in front of them; letters and their
/// marks; punctuation and symbols with the line breaks behind them; line breaks.
macro_rules! deepseek_words {
    ($punctuation:literal, $breaks:literal) => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
            $punctuation,
            "|",
            $breaks
        )
    };
}

const GPT2_WORDS: Stage = Stage::Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const QWEN2_WORDS: Stage = Stage::Words(words!(r"\p{N}"));
const LLAMA3_WORDS: Stage = Stage::Words(words!(r"\p{N}{1,3}"));
const DEEPSEEK_WORDS: Stage = Stage::Words(deepseek_words!(r" ?[\p{P}\p{S}]+[\r\n]*", r"\s*[\r\n]+"));
/// Chinese characters and Japanese syllables.
const HAN_AND_KANA: Stage = Stage::Matches(r"[一-龥\u{3040}-\u{30ff}]+");
/// Chinese characters, and all scripts from Samaritan to Hangul.
const HAN_AND_OTHERS: Stage = Stage::Matches(r"[一-龥\u{800}-一가-\u{d7ff}]+");
const DIGIT: Stage = Stage::Matches(r"\p{N}");
const LINES: Stage = Stage::Matches(r"[^\n]+|[\n]+");
/// What is between punctuation of several scripts.
const BLOOM_WORDS: Stage = Stage::Matches(r" ?[^(\s|.,!?…。，、।۔،)]+");

/// Every known scheme.
static SCHEMES: &[Scheme] = &[
    Scheme::new(
        &["default"],
        &[
            Stage::Matches(r"[\p{P}$+<=>^~|]+"),
            GPT2_WORDS,
            Stage::Matches(r"\p{N}+"),
            Stage::Matches(r"[0-9][0-9][0-9]"),
        ],
    ),
    Scheme::new(
        &[
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
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
        ],
        &[GPT2_WORDS],
    ),
    Scheme::new(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[DIGIT, GPT2_WORDS],
    ),
    Scheme::new(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[LLAMA3_WORDS],
    )
    .ignoring_merges()
    .with_bos(),
    Scheme::new(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3_WORDS]),
    Scheme::new(&["jais-2"], &[Stage::HalvedSpaces(words!(r"\p{N}{1,3}"))]),
    Scheme::new(
        &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo", "f2llmv2"],
        &[QWEN2_WORDS],
    ),
    Scheme::new(
        &["qwen35"],
        &[Stage::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
        ))],
    ),
    Scheme::new(&["laguna"], &[LINES, QWEN2_WORDS]),
    Scheme::new(&["minicpm5"], &[Stage::Matches(r"\p{N}{1,3}"), Stage::Words(words!(r"\p{N}+"))]).ignoring_merges(),
    Scheme::new(&["ufakzeka"], &[Stage::Words(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")]),
    Scheme::new(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[Stage::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
        ))],
    ),
    Scheme::new(
        &["seed-coder"],
        &[Stage::Words(concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"))],
    ),
    Scheme::new(
        &["exaone-moe"],
        &[Stage::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        ))],
    ),
    Scheme::new(&["tekken"], &[Stage::Words(cased_words!("", r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"))])
        .ignoring_merges()
        .with_bos(),
    Scheme::new(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[Stage::Words(gpt_4o_words!(r"\p{N}{1,3}"))],
    ),
    Scheme::new(&["granite-embed-multi-97m"], &[Stage::Words(gpt_4o_words!(r"\p{N}{1,3}"))]).ignoring_merges(),
    Scheme::new(&["tiny_aya", "cohere2moe"], &[Stage::Thirds(r"\d+\b"), Stage::Words(gpt_4o_words!(r"\p{N}{1,3}"))]),
    Scheme::new(
        &["youtu"],
        &[
            Stage::Matches(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-\u{30ff}]+"),
            Stage::Words(gpt_4o_words!(r"\p{N}")),
        ],
    )
    .ignoring_merges(),
    Scheme::new(
        &["kimi-k2"],
        &[Stage::Words(concat!(
            r"\p{Han}+|",
            cased_words!(
                r"[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Han}]",
                r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Han}]",
                concat!("(?:", contraction!(), ")?"),
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            )
        ))],
    ),
    Scheme::new(
        &["deepseek-llm"],
        &[
            Stage::Matches(r"[\r\n]"),
            // Letters that are capital or small, as an early Unicode had them.
            Stage::Matches(r"\s?[\p{LC}--[\u{10d0}-\u{10ff}\u{a790}-\u{ab6f}\u{10570}-\u{105bc}\u{16e40}-\u{1dfff}]]+"),
            Stage::Matches(r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
            Stage::Matches(r"\s+$"),
            HAN_AND_OTHERS,
            Stage::Matches(r"\p{N}+"),
        ],
    ),
    Scheme::new(
        &["deepseek-coder"],
        &[Stage::Matches(r"[\r\n]"), Stage::Matches(r"\s?\p{L}+"), Stage::Matches(r"\s?\p{P}+"), HAN_AND_OTHERS, DIGIT],
    ),
    Scheme::new(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[Stage::Matches(r"\p{N}{1,3}"), HAN_AND_KANA, DEEPSEEK_WORDS],
    ),
    Scheme::new(
        &["spark2_5"],
        &[
            Stage::Matches(r"\p{N}{1,3}"),
            HAN_AND_KANA,
            Stage::Words(deepseek_words!(r" ?[\p{P}\p{S}]+", r"[\r\n]")),
            DIGIT,
        ],
    ),
    Scheme::new(
        &["afmoe"],
        &[
            Stage::Thirds(r"\p{N}+"),
            Stage::Matches(
                r"[一-\u{9fff}㐀-\u{4dbf}豈-\u{faff}\u{3040}-\u{30ff}･-\u{ff9f}⼀-\u{2fdf}เ-\u{e7f}\u{e80}-\u{eff}ក-\u{17ff}က-\u{109f}ꩠ-\u{aa7f}ꧠ-\u{a9ff}가-\u{d7af}ᄀ-\u{11ff}]+",
            ),
            DEEPSEEK_WORDS,
        ],
    ),
    Scheme::new(&["superbpe"], &[Stage::Thirds(r"\p{N}+")]),
    Scheme::new(&["falcon"], &[Stage::Matches(r"[\p{P}$+<=>^~|`]+"), GPT2_WORDS, Stage::Matches(r"[0-9][0-9][0-9]")]),
    Scheme::new(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM_WORDS]),
    Scheme::new(&["viking"], &[BLOOM_WORDS, DIGIT]),
    Scheme::new(
        &["chameleon"],
        &[
            Stage::Matches(r"<sentinel:[0-9]+>"),
            Stage::Matches(r"IMGIMG[A-I]{1,4}Z"),
            Stage::Matches(r"[\t\n]|    |  "),
            DIGIT,
            Stage::Matches(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2_WORDS,
        ],
    )
    .with_bos(),
    Scheme::new(&["gemma4", "granite-embed-multi-311m", "sarvam-moe"], &[LINES]).spelled(Spelling::Spaced),
    Scheme::new(&["whitespace"], &[Stage::Matches(r"\S+")]).spelled(Spelling::Text),
];
