//! Just enough of Rust's grammar to see which modules a file names: comments and strings are blanked, paths are read.

/// The text with comments and the contents of strings blanked; lines stay where they are.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_len(rest)
        } else if let Some(end) = raw_string_len(rest).filter(|_| !code.ends_with(is_word)) {
            end
        } else if c == '\'' {
            char_len(rest)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[skipped..];
    }
    code
}

/// Length of the string literal at the start of `text`.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(i, _)| i + 1)
}

/// Length of the raw string literal (`r"…"`, `r#"…"#`) at the start of `text`, if there is one.
fn raw_string_len(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let inner = hashes.trim_start_matches('#');
    let n_hashes = hashes.len() - inner.len();
    let body = inner.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(n_hashes));
    Some(body.find(&end).map_or(text.len(), |at| 2 + n_hashes + at + end.len()))
}

/// Length of the character literal at the start of `text`, or 1 for a lifetime.
fn char_len(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escape, _))) => text[escape + 1..].find('\'').map_or(1, |end| escape + end + 2),
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a line of code has `word` with no letter before it.
pub(super) fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(is_word))
}

/// A file of `src/`.
pub(super) struct Source {
    /// The modules that lead to it: `["backend", "cpu", "ops"]`.
    path: Vec<String>,
    code: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let path = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        Self { path: path.split('/').map(Into::into).collect(), code: code_of(text) }
    }

    /// The top-level module that it belongs to.
    pub(super) fn module(&self) -> &str {
        &self.path[0]
    }

    /// Line and name of every top-level module that the code names.
    pub(super) fn named_modules(&self) -> Vec<(usize, String)> {
        let mut named = Vec::new();
        for start in ["crate::", "halfbyte::", "super::"] {
            for (at, _) in self.code.match_indices(start) {
                let before = &self.code[..at];
                // Of `super::super::x`, only the first `super` starts a path.
                if before.ends_with(is_word) || before.ends_with("::") {
                    continue;
                }
                let line = before.matches('\n').count() + 1;
                let rest = &self.code[at + start.len()..];
                let names = match start {
                    "super::" => self.above(rest),
                    _ => first_names(rest),
                };
                named.extend(names.into_iter().map(|name| (line, name)));
            }
        }
        named
    }

    /// What a path that begins with `super::` names at the top level; `rest` is what follows.
    fn above(&self, rest: &str) -> Vec<String> {
        let mut rest = rest;
        let mut n_up = 1;
        while let Some(next) = rest.strip_prefix("super::") {
            rest = next;
            n_up += 1;
        }
        if n_up < self.path.len() { vec![self.path[0].clone()] } else { first_names(rest) }
    }
}

/// The first name of a path, or of each path in braces. Names that the crate's root re-exports are those of `error`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![top_level(path)] };
    let mut depth = 0;
    let mut names = Vec::new();
    let mut start = Some(0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = Some(i + 1),
            c if is_word(c) && start.take().is_some() => names.push(top_level(&group[i..])),
            _ => {}
        }
    }
    names
}

fn top_level(path: &str) -> String {
    let name: String = path.chars().take_while(|&c| is_word(c)).collect();
    if name.starts_with(char::is_uppercase) { "error".into() } else { name }
}

#[test]
fn comments_and_strings_are_no_code() {
    let code = code_of("a // crate::b\n\"crate::c \\\" d\" e /* crate::f */ '\"' g r#\"crate::\"h\"# 'x: i");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "g", "x:", "i"]);
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn named_modules_are_found_however_they_are_written() {
    let text =
        "use crate::{Error, quant::{self, Weight}, gguf};\nlet x = super::super::graph::y(super::z);\nhalfbyte::hub::f";
    let named = Source::new("src/backend/cpu.rs", text).named_modules();
    let expected = [(1, "error"), (1, "quant"), (1, "gguf"), (3, "hub"), (2, "graph"), (2, "backend")];
    assert_eq!(named, expected.map(|(line, name)| (line, name.to_owned())));
}
