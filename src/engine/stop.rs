//! Stop strings: text is held back while it may turn out to be the start of one, so that none is ever seen in part.

/// Cuts a text that comes in pieces before the first stop string. Where the pieces end does not matter.
#[derive(Debug, Default)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// This much can be shown; there was no stop string.
    Open(String),
    /// A stop string came: this is the last text before it.
    Stop(String),
}

impl StopFilter {
    /// A filter for `stops`; empty ones are left out.
    pub(super) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds text. The stop string that is complete first counts; of two that end together, the longer one.
    pub(super) fn push(&mut self, text: &str) -> Cut {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at))).min();
        if let Some((_, at)) = found {
            self.held.truncate(at);
            return Cut::Stop(std::mem::take(&mut self.held));
        }
        let start = self.held.char_indices().map(|(i, _)| i).find(|&i| self.may_stop(i)).unwrap_or(self.held.len());
        let rest = self.held.split_off(start);
        Cut::Open(std::mem::replace(&mut self.held, rest))
    }

    /// What is held back, when no more text comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether the held text from `i` on is the start of a stop string.
    fn may_stop(&self, i: usize) -> bool {
        self.stops.iter().any(|stop| stop.starts_with(&self.held[i..]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// All that comes out for these pieces, and whether a stop string ended it.
    fn all<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let (mut filter, mut out) = (filter(stops), String::new());
        for piece in pieces {
            match filter.push(piece) {
                Cut::Open(text) => out += &text,
                Cut::Stop(text) => return (out + &text, true),
            }
        }
        (out + &filter.finish(), false)
    }

    #[test]
    fn text_is_held_only_while_it_may_be_a_stop_string() {
        let mut f = filter(&["User:"]);
        assert_eq!(f.push("Hi. Us"), Cut::Open("Hi. ".into()));
        assert_eq!(f.push("e"), Cut::Open(String::new()));
        assert_eq!(f.push("ful U"), Cut::Open("Useful ".into()));
        assert_eq!(f.push("ser: x"), Cut::Stop(String::new()));
    }

    #[test]
    fn what_is_held_comes_at_the_end() {
        assert_eq!(all(&["###"], ["a #", "#"]), ("a ##".into(), false));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts() {
        assert_eq!(all(&["abcd", "bc"], ["abcd"]), ("a".into(), true));
        assert_eq!(all(&["abc", "bc"], ["abc"]), (String::new(), true));
        assert_eq!(all(&[""], ["abc"]), ("abc".into(), false));
    }

    proptest! {
        #[test]
        fn where_pieces_end_does_not_matter(
            text in "[abé]{0,30}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut borders: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            borders = cuts.iter().map(|c| borders[c.index(borders.len())]).chain([0, text.len()]).collect();
            borders.sort_unstable();
            let whole = all(&stops, [text.as_str()]);
            prop_assert_eq!(&whole, &all(&stops, borders.windows(2).map(|w| &text[w[0]..w[1]])));
            prop_assert!(text.starts_with(&whole.0));
            prop_assert!(stops.iter().all(|s| !whole.0.contains(s)));
        }
    }
}
