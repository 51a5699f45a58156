//! Two things that templates say and minijinja has no syntax for, said in another way.
//!
//! `{% generation %}` marks what the model says, for training; here it becomes a block that does nothing. And in Jinja2 a
//! string that went through `safe` escapes what is added to it, escaping or not; here escaping is turned on around such a sum.
//! White space is what it was: the marks that trim it or keep it stay with their tags.

/// The template in the words of minijinja.
pub(super) fn rewrite(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        text.push_str(before);
        let end = end_of_tag(tag);
        let (tag, after) = tag.split_at(end);
        match word(tag) {
            Some("generation") => text.push_str(&tag.replace("generation", "if true")),
            Some("endgeneration") => text.push_str(&tag.replace("endgeneration", "endif")),
            None if adds_to_safe(tag) => escaping(tag, &mut text),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text + rest
}

/// Length of the tag at the start of `text`; of the brace, where none begins or it has no end.
fn end_of_tag(text: &str) -> usize {
    let close = match text.as_bytes().get(1) {
        Some(b'{') => "}}",
        Some(b'%') => "%}",
        Some(b'#') => return text.find("#}").map_or(1, |end| end + 2),
        _ => return 1,
    };
    let (mut quote, mut escaped) = (None, false);
    for (i, c) in text.char_indices().skip(2) {
        match quote {
            None if text[i..].starts_with(close) => return i + close.len(),
            None => quote = Some(c).filter(|c| matches!(c, '"' | '\'')),
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
        }
    }
    1
}

/// What is in a statement's tag, without what is about white space.
fn word(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    Some(inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+'))
}

/// Whether an expression adds to a string that went through `safe`.
fn adds_to_safe(tag: &str) -> bool {
    tag.starts_with("{{") && tag.split_whitespace().collect::<String>().contains("|safe+")
}

/// Appends the expression with escaping around it.
fn escaping(tag: &str, text: &mut String) {
    let inside = &tag[2..tag.len() - 2];
    let (before, inside) = inside.strip_prefix('-').map_or(('+', inside), |inside| ('-', inside));
    let (inside, after) = inside.strip_suffix('-').map_or((inside, '+'), |inside| (inside, '-'));
    *text += &format!("{{%{before} autoescape true %}}{{{{{inside}}}}}{{% endautoescape {after}%}}");
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn generation_tags_become_blocks_that_do_nothing() {
        assert_eq!(rewrite("a{%- generation %}b{% endgeneration -%}c"), "a{%- if true %}b{% endif -%}c");
    }

    #[test]
    fn sums_with_safe_strings_escape() {
        assert_eq!(
            rewrite("{{- '}}'|safe  + x }}y"),
            "{%- autoescape true %}{{ '}}'|safe  + x }}{% endautoescape +%}y"
        );
        assert_eq!(rewrite("{{ x | safe + y -}}"), "{%+ autoescape true %}{{ x | safe + y }}{% endautoescape -%}");
    }

    #[test]
    fn all_else_stays() {
        let others = [
            "{% set generation = 1 %}{{ generation }}{% if generation %}x{% endif %}",
            "{# {% generation %} #}{{ '{% generation %}' }}{{ \"a\\\"}}\" }}",
            "{{ x | safe }} {\"json\": 1} {",
            "{% generation",
            "{{ 'é",
        ];
        for other in others {
            assert_eq!(rewrite(other), other);
        }
    }
}
