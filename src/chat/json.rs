//! JSON as Python's `json.dumps` writes it: models were trained on prompts with exactly these spaces.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// The keyword arguments of `json.dumps` that templates use.
pub(super) struct Style {
    /// Whether characters beyond ASCII are escaped.
    pub(super) ensure_ascii: bool,
    /// Spaces per level; everything on one line without.
    pub(super) indent: Option<usize>,
    /// What stands between items.
    pub(super) item_separator: String,
    /// What stands between key and value.
    pub(super) key_separator: String,
    /// Whether objects are in the order of their keys.
    pub(super) sort_keys: bool,
}

/// Deepest nesting, so that a value cannot exhaust the stack.
const MAX_DEPTH: usize = 128;

/// Most spaces of a level: beyond any layout, and little enough for [`MAX_DEPTH`] levels.
const MAX_INDENT: usize = 64;

/// `value` as JSON.
///
/// # Errors
/// If it holds what JSON has no form for, or is nested too deep.
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    if style.indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(unable(format!("an indentation of more than {MAX_INDENT} spaces")));
    }
    let mut writer = Writer { out: String::new(), style };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked().map(|item| Ok((None, item?)));
                self.items(['[', ']'], items.collect::<Result<_, Error>>()?, depth)?;
            }
            ValueKind::Map => {
                let keys = value.try_iter()?.checked();
                let pair = |key: Result<Value, Error>| {
                    let key = key?;
                    let item = value.get_item(&key)?;
                    Ok((Some(key_text(&key)?), item))
                };
                let mut pairs = keys.map(pair).collect::<Result<Vec<_>, Error>>()?;
                if self.style.sort_keys {
                    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.items(['{', '}'], pairs, depth)?;
            }
            kind => return Err(unable(format!("{kind} values"))),
        }
        Ok(())
    }

    fn items(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth == MAX_DEPTH {
            return Err(unable(format!("more than {MAX_DEPTH} levels")));
        }
        self.out.push(open);
        let is_empty = items.is_empty();
        for (i, (key, item)) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.style.item_separator);
            }
            self.new_line(depth + 1);
            if let Some(key) = key {
                self.string(&key);
                self.out.push_str(&self.style.key_separator);
            }
            self.value(&item, depth + 1)?;
        }
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c >= '\u{7f}') => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(self.out, "\\u{unit:04x}").expect("memory takes everything");
        }
    }
}

/// The text of a key that is no string.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().into()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(unable(format!("{kind} values as keys"))),
    }
}

/// A number as Python's `repr` writes it.
pub(super) fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// The shortest digits that give the same number back; with an exponent from 1e16 on and below 1e-4.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`e` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`e` writes an exponent");
    if x == 0.0 || (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn unable(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("JSON has no room for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Style {
        Style {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            sort_keys: false,
        }
    }

    fn value(json: &str) -> Value {
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        Value::from(minijinja::value::Serde(json))
    }

    /// The right column was printed by Python 3.
    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (123_456_789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (5e-324, "5e-324"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (x, text) in cases {
            assert_eq!(float(x), text);
        }
    }

    #[test]
    fn json_is_that_of_json_dumps() {
        let v = value(r#"{"b": [1, 2.5, true, null, {}], "a": "é\"\\\n\u0001<&'\u007f😀", "c": []}"#);
        let text = dumps(&v, &plain()).expect("JSON");
        assert_eq!(text, "{\"b\": [1, 2.5, true, null, {}], \"a\": \"é\\\"\\\\\\n\\u0001<&'\u{7f}😀\", \"c\": []}");
        let style =
            Style { ensure_ascii: true, sort_keys: true, indent: Some(2), item_separator: ",".into(), ..plain() };
        let text = dumps(&v, &style).expect("JSON");
        let expected = "{\n  \"a\": \"\\u00e9\\\"\\\\\\n\\u0001<&'\\u007f\\ud83d\\ude00\",\n  \"b\": [\n    1,\n    2.5,\n    true,\n    null,\n    {}\n  ],\n  \"c\": []\n}";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_json_has_no_form_for_is_refused() {
        let error = |value: &Value, style: &Style| dumps(value, style).expect_err("no JSON").to_string();
        assert!(error(&Value::UNDEFINED, &plain()).ends_with("JSON has no room for undefined values"));
        let deep = (0..200).fold(Value::from(1), |value, _| Value::from(vec![value]));
        assert!(error(&deep, &plain()).ends_with("more than 128 levels"));
        let wide = Style { indent: Some(1 << 40), ..plain() };
        assert!(error(&Value::from(1), &wide).ends_with("more than 64 spaces"));
    }
}
