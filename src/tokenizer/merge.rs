//! Joining neighbours until nothing can be joined: what BPE and SentencePiece have in common.
//!
//! A piece of text starts as a chain of symbols (bytes or characters). Of all neighbours that make a token together, the
//! pair of the lowest rank is joined first, of equal ranks the leftmost, and the joined symbol finds new partners. Ids are
//! carried along, so that no text is built or copied on the way.
//!
//! Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2, with the
//! priority queue that SentencePiece uses.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Stands for "no token" and "no neighbour": ids and positions are below it.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of the piece, and the token that it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte.
    start: u32,
    /// Bytes; 0 once it was joined to its left neighbour.
    len: u32,
    /// The token, or [`NONE`] for text that is no token.
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    /// Where the symbol lies in the piece.
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// What two neighbours would become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Joined {
    /// Lower ranks are joined first.
    pub(super) rank: u32,
    /// The token that they make.
    pub(super) id: u32,
}

/// A pair that can be joined. The order of the fields is the order of joining: by rank, then from the left; the length is
/// what the pair had when it was found, and tells whether it is still the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    len: u32,
    id: u32,
}

/// The chain of symbols of one piece, with its memory kept for the next piece.
#[derive(Debug, Default)]
pub(super) struct Chain {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Chain {
    /// Starts a new piece.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` bytes that is token `id`, or [`NONE`].
    pub(super) fn push(&mut self, len: usize, id: u32) {
        let at = self.symbols.len() as u32;
        let (start, prev) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = at;
                (last.start + last.len, at - 1)
            }
            None => (0, NONE),
        };
        self.symbols.push(Symbol { start, len: len as u32, id, prev, next: NONE });
    }

    /// Joins neighbours for as long as `find` knows a token for some.
    pub(super) fn join(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<Joined>) {
        for right in 1..self.symbols.len() as u32 {
            self.consider(right - 1, right, &find);
        }
        while let Some(Reverse(pair)) = self.queue.pop() {
            let (left, right) = (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
            // Symbols only grow or vanish: same ends and same length means the same pair.
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            let joined = &mut self.symbols[pair.left as usize];
            (joined.len, joined.id, joined.next) = (pair.len, pair.id, right.next);
            self.symbols[pair.right as usize].len = 0;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = pair.left;
            }
            self.consider(left.prev, pair.left, &find);
            self.consider(pair.left, right.next, &find);
        }
    }

    /// The symbols that are left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn consider(&mut self, left: u32, right: u32, find: &impl Fn(&Symbol, &Symbol) -> Option<Joined>) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(Joined { rank, id }) = find(l, r) {
            self.queue.push(Reverse(Candidate { rank, left, right, len: l.len + r.len, id }));
        }
    }
}
