//! Cutting text into the words inside which BPE joins bytes.
//!
//! The schemes are regular expressions published with the models (`schemes`). Nearly all end in `\s+(?!\S)|\s+`: a run of
//! white space leaves its last character to the word that follows. That look-ahead, and the two others that there are, are
//! done here by hand, and the rest runs on an automaton, in time linear in the text whatever it holds.

use std::ops::Range;

use regex_automata::Input;
use regex_automata::meta::Regex;

use super::schemes::Scheme;

/// One cut. What the pattern matches are words; so is what lies between two matches.
#[derive(Debug)]
pub(super) enum Stage {
    /// Just the pattern.
    Matches(&'static str),
    /// The pattern, then `\s+(?!\S)|\s+`.
    Words(&'static str),
    /// The pattern, then `\s{512}(?!\S)`, `\s{256}(?!\S)` and so on down to `\s{4}(?!\S)|\s{1,2}(?!\S)|\s`.
    HalvedSpaces(&'static str),
    /// What the pattern matches is cut into threes, from its end: `(?=(\d{3})+$)`.
    Thirds(&'static str),
}

/// A scheme, ready to cut.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    cuts: Vec<Cut>,
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

/// A compiled [`Stage`].
#[derive(Debug)]
struct Cut {
    /// White space is the second pattern, where it has rules of its own.
    regex: Regex,
    pieces: Pieces,
}

/// How a match is cut further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    Whole,
    /// White space in powers of two.
    Halved,
    /// In threes, from the end.
    Thirds,
}

impl Cut {
    fn new(stage: &Stage) -> Self {
        let (regex, pieces) = match stage {
            Stage::Matches(pattern) => (Regex::new(pattern), Pieces::Whole),
            Stage::Words(pattern) => (Regex::new_many(&[pattern, r"\s+"]), Pieces::Whole),
            Stage::HalvedSpaces(pattern) => (Regex::new_many(&[pattern, r"\s+"]), Pieces::Halved),
            Stage::Thirds(pattern) => (Regex::new(pattern), Pieces::Thirds),
        };
        Self { regex: regex.expect("patterns of the table are valid"), pieces }
    }

    fn apply(&self, text: &str, word: Range<usize>, words: &mut Vec<Range<usize>>) {
        let (base, text) = (word.start, &text[word]);
        let (mut done, mut at) = (0, 0);
        while let Some(found) = self.regex.find(Input::new(text).range(at..)) {
            let is_space = found.pattern().as_usize() == 1;
            let mut end = found.end();
            if is_space && end < text.len() {
                end = without_last_char(text, found.range());
            }
            if done < found.start() {
                words.push(base + done..base + found.start());
            }
            let range = base + found.start()..base + end;
            match self.pieces {
                Pieces::Halved if is_space => halve(&text[found.start()..end], range.start, words),
                Pieces::Thirds => thirds(&text[found.start()..end], range.start, words),
                _ => words.push(range),
            }
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

/// White space that begins at `start`, in pieces of 512 characters, then 256 and so on.
fn halve(space: &str, start: usize, words: &mut Vec<Range<usize>>) {
    let lens = (0..=9).rev().map(|power| 1 << power);
    let mut left = space.chars().count();
    let sizes = lens.flat_map(|len| {
        let n = left / len;
        left %= len;
        std::iter::repeat_n(len, n)
    });
    push_pieces(space, start, sizes, words);
}

/// A number that begins at `start`, in threes; the first piece is what is left over.
fn thirds(number: &str, start: usize, words: &mut Vec<Range<usize>>) {
    let n = number.chars().count();
    let first = Some(n % 3).filter(|&n| n > 0);
    push_pieces(number, start, first.into_iter().chain(std::iter::repeat_n(3, n / 3)), words);
}

/// Cuts text that begins at `start` into pieces of so many characters.
fn push_pieces(text: &str, mut start: usize, sizes: impl Iterator<Item = usize>, words: &mut Vec<Range<usize>>) {
    let mut chars = text.chars();
    for size in sizes {
        let len: usize = chars.by_ref().take(size).map(char::len_utf8).sum();
        words.push(start..start + len);
        start += len;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// All schemes, ready to cut.
    static ALL: LazyLock<Vec<PreTokenizer>> = LazyLock::new(|| Scheme::all().map(PreTokenizer::new).collect());

    /// The words of a text, by the scheme of this name.
    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        PreTokenizer::new(Scheme::by_name(Some(name)).expect("a known scheme")).cut(text, &mut words);
        words.into_iter().map(|word| &text[word]).collect()
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        assert_eq!(words("gpt-2", "a   b \n\n c  "), ["a", "  ", " b", " \n\n", " c", "  "]);
        assert_eq!(words("gpt-2", "a \t(b"), ["a", " ", "\t", "(", "b"]);
    }

    #[test]
    fn white_space_is_halved() {
        let lens = |text: &str| -> Vec<usize> { words("jais-2", text).iter().map(|word| word.len()).collect() };
        // 512 + 64 + 16 + 4 + 2 + 1 spaces, and one that goes with the word.
        assert_eq!(lens(&format!("{}x", " ".repeat(600))), [512, 64, 16, 4, 2, 1, 2]);
        assert_eq!(lens(&" ".repeat(9)), [8, 1]);
        assert_eq!(words("jais-2", "a  1"), ["a", " ", " ", "1"]);
    }

    #[test]
    fn numbers_are_cut_in_threes_from_their_end() {
        assert_eq!(words("tiny_aya", "1234567 12 x1234abc"), ["1", "234", "567", " ", "12", " x", "123", "4", "abc"]);
        assert_eq!(words("superbpe", "a1234567"), ["a", "1", "234", "567"]);
        assert_eq!(words("afmoe", "123456"), ["123", "456"]);
        assert_eq!(words("llama3", "1234567"), ["123", "456", "7"]);
        assert_eq!(words("qwen2", "123"), ["1", "2", "3"]);
    }

    #[test]
    fn words_end_where_small_letters_do() {
        assert_eq!(words("gpt-4o", "camelCase HTTPServer's"), ["camel", "Case", " HTTPServer's"]);
        assert_eq!(words("tekken", "école ÉCOLE's"), ["école", " ÉCOLE", "'s"]);
        assert_eq!(words("kimi-k2", "iPhone中文abc"), ["i", "Phone", "中文", "abc"]);
    }

    proptest! {
        #[test]
        fn words_are_the_whole_text(text in "([a-zA-Z'é]{1,4}|[0-9½٣]{1,5}|[ \t\r\n\u{a0}]{1,5}|[^a]{1,3}|[一가ก๏]{1,2}){0,6}") {
            let mut words = Vec::new();
            for scheme in ALL.iter() {
                scheme.cut(&text, &mut words);
                let cut: String = words.iter().map(|word| &text[word.clone()]).collect();
                prop_assert_eq!(&cut, &text);
            }
        }
    }
}
