//! One session's tokens, and its place in the KV cache.

use super::pages::{Content, PagePool};
use crate::backend::PAGE_LEN;

/// Tokens of which the first `n_cached` have their keys and values in `pages`.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    tokens: Vec<u32>,
    n_cached: usize,
    pages: Vec<u32>,
    /// What the full pages hold, by the names that the pool gave.
    contents: Vec<Content>,
}

impl Sequence {
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn pages(&self) -> &[u32] {
        &self.pages
    }

    pub(super) fn n_cached(&self) -> usize {
        self.n_cached
    }

    /// Tokens that still have to run.
    pub(super) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_cached
    }

    /// Adds a token to the end.
    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Makes `prompt` the tokens, and keeps what is in the cache of its start, be it this sequence's or any other's. At
    /// least the last token stays to be run, since its logits are wanted. Returns how many need not run.
    pub(super) fn set(&mut self, prompt: Vec<u32>, pool: &mut PagePool) -> usize {
        let most = prompt.len().saturating_sub(1);
        let common = self.tokens[..self.n_cached].iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
        self.truncate(common, pool);
        self.tokens = prompt;
        let mut page = self.n_cached / PAGE_LEN;
        while (page + 1) * PAGE_LEN <= most {
            let tokens = page_tokens(&self.tokens, page);
            let Some((found, content)) = pool.find(self.contents.last().copied(), tokens) else { break };
            // A page that holds a part of the same is not needed any more.
            self.pages.drain(page..).for_each(|partial| pool.release(partial));
            self.pages.push(found);
            self.contents.push(content);
            page += 1;
            self.n_cached = page * PAGE_LEN;
        }
        self.n_cached
    }

    /// Owns pages for the next `n` tokens; `false` if the pool has none left.
    pub(super) fn reserve(&mut self, n: usize, pool: &mut PagePool) -> bool {
        while self.pages.len() * PAGE_LEN < self.n_cached + n {
            let Some(page) = pool.take() else { return false };
            self.pages.push(page);
        }
        true
    }

    /// Says that the next `n` tokens have run.
    pub(super) fn advance(&mut self, n: usize, pool: &mut PagePool) {
        self.n_cached += n;
        for page in self.contents.len()..self.n_cached / PAGE_LEN {
            let tokens = page_tokens(&self.tokens, page);
            let content = pool.publish(self.pages[page], self.contents.last().copied(), tokens);
            self.contents.push(content);
        }
    }

    /// Gives up all pages.
    pub(super) fn clear(&mut self, pool: &mut PagePool) {
        self.truncate(0, pool);
        self.tokens.clear();
    }

    /// Keeps the first `n` cached positions, or a few less where their page is shared and so can't be written to.
    fn truncate(&mut self, n: usize, pool: &mut PagePool) {
        let n_full = n / PAGE_LEN;
        let partial = !n.is_multiple_of(PAGE_LEN) && pool.make_writable(self.pages[n_full]);
        self.n_cached = if partial { n } else { n_full * PAGE_LEN };
        self.contents.truncate(n_full);
        // From the end, so that a page is taken by others before those that it needs to be of use.
        self.pages.drain(n_full + usize::from(partial)..).rev().for_each(|page| pool.release(page));
    }
}

fn page_tokens(tokens: &[u32], page: usize) -> &[u32; PAGE_LEN] {
    tokens[page * PAGE_LEN..].first_chunk().expect("the page is full")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sequence: &mut Sequence, pool: &mut PagePool) {
        let n = sequence.n_pending();
        assert!(sequence.reserve(n, pool));
        sequence.advance(n, pool);
    }

    fn counting(n: u32) -> Vec<u32> {
        (0..n).collect()
    }

    #[test]
    fn a_conversation_goes_on_where_it_was() {
        let (mut pool, mut a) = (PagePool::new(8), Sequence::default());
        assert_eq!(a.set(counting(40), &mut pool), 0);
        run(&mut a, &mut pool);
        a.push(40);
        assert_eq!(a.set(counting(60), &mut pool), 40);
        assert_eq!(a.n_pending(), 20);
        assert_eq!(a.pages().len(), 2);
    }

    #[test]
    fn the_last_token_always_runs() {
        let (mut pool, mut a) = (PagePool::new(8), Sequence::default());
        a.set(counting(64), &mut pool);
        run(&mut a, &mut pool);
        assert_eq!(a.set(counting(64), &mut pool), 63);
        assert_eq!(a.set(counting(10), &mut pool), 9);
    }

    #[test]
    fn a_shared_page_is_not_written_to() {
        let (mut pool, mut a, mut b) = (PagePool::new(8), Sequence::default(), Sequence::default());
        a.set(counting(64), &mut pool);
        run(&mut a, &mut pool);
        assert_eq!(b.set(counting(64), &mut pool), 32);
        assert_eq!(b.pages(), &a.pages()[..1]);
        // b leaves the common start within the shared page: it starts over with pages of its own.
        let mut other = counting(64);
        other[20] = 99;
        assert_eq!(b.set(other, &mut pool), 0);
        run(&mut b, &mut pool);
        assert!(b.pages().iter().all(|page| !a.pages().contains(page)));
    }

    #[test]
    fn an_own_page_is_written_to_from_where_texts_part() {
        let (mut pool, mut a, mut b) = (PagePool::new(8), Sequence::default(), Sequence::default());
        a.set(counting(64), &mut pool);
        run(&mut a, &mut pool);
        let mut other = counting(64);
        other[40] = 99;
        assert_eq!(a.set(other, &mut pool), 40);
        // What was there can't be found by others any more.
        assert_eq!(b.set(counting(65), &mut pool), 32);
    }

    #[test]
    fn pages_of_the_past_are_found_again() {
        let (mut pool, mut a, mut b) = (PagePool::new(8), Sequence::default(), Sequence::default());
        a.set(counting(100), &mut pool);
        run(&mut a, &mut pool);
        a.clear(&mut pool);
        assert_eq!(pool.n_free(), 8);
        assert_eq!(b.set(counting(100), &mut pool), 96);
        assert_eq!(pool.n_free(), 5);
    }

    #[test]
    fn a_pool_without_pages_says_so() {
        let (mut pool, mut a) = (PagePool::new(1), Sequence::default());
        a.set(counting(33), &mut pool);
        assert!(!a.reserve(33, &mut pool));
        a.clear(&mut pool);
        assert_eq!(pool.n_free(), 1);
    }
}
