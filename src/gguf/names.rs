//! Finds rows of an ordered table by name without a second copy of the names.

/// The positions of rows, sorted by name.
#[derive(Debug)]
pub(super) struct NameIndex(Vec<usize>);

impl NameIndex {
    /// Indexes `rows`; a name that appears twice is the error.
    pub(super) fn new<T>(rows: &[T], name: impl Fn(&T) -> &str) -> Result<Self, &str> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by(|&a, &b| name(&rows[a]).cmp(name(&rows[b])));
        match order.windows(2).find(|pair| name(&rows[pair[0]]) == name(&rows[pair[1]])) {
            Some(pair) => Err(name(&rows[pair[0]])),
            None => Ok(Self(order)),
        }
    }

    /// The position in `rows` (those that were indexed) of the one with this name.
    pub(super) fn get<T>(&self, rows: &[T], wanted: &str, name: impl Fn(&T) -> &str) -> Option<usize> {
        self.0.binary_search_by(|&i| name(&rows[i]).cmp(wanted)).ok().map(|at| self.0[at])
    }
}
