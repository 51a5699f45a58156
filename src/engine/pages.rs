//! Who owns which page of the KV cache.
//!
//! A page holds the keys and values of [`PAGE_LEN`] positions. A full page can be shared by all sequences that begin with
//! the same tokens, since keys and values at a position depend on the tokens up to it and on nothing else. Pages that
//! nobody owns keep what is in them until they are needed, the longest unused first, so that a prompt which comes again
//! is not computed again.

use std::collections::{BTreeMap, HashMap};

use crate::backend::PAGE_LEN;

/// Names what a full page holds: the tokens from the start of the sequence to the end of the page. Never used twice,
/// so that what followed a page which is gone can't be found any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Content(u64);

/// The content before the page, and the page's tokens.
type Key = (Option<Content>, [u32; PAGE_LEN]);

#[derive(Debug, Default)]
struct Page {
    n_owners: u32,
    /// Under which key it can be found, and what its content is called.
    published: Option<(Key, Content)>,
    /// When it became free; its place in [`PagePool::free`].
    freed_at: u64,
}

/// All pages of a KV cache.
#[derive(Debug)]
pub(super) struct PagePool {
    pages: Vec<Page>,
    /// Pages without an owner by when they became so.
    free: BTreeMap<u64, u32>,
    by_key: HashMap<Key, u32>,
    /// Source of contents and times.
    clock: u64,
}

impl PagePool {
    /// A pool of `n_pages` pages, all free.
    pub(super) fn new(n_pages: usize) -> Self {
        let mut pool =
            Self { pages: Vec::with_capacity(n_pages), free: BTreeMap::new(), by_key: HashMap::new(), clock: 0 };
        for page in 0..n_pages as u32 {
            let freed_at = pool.tick();
            pool.pages.push(Page { freed_at, ..Page::default() });
            pool.free.insert(freed_at, page);
        }
        pool
    }

    /// Pages without an owner.
    #[cfg(test)]
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// A page for the caller alone, its content undefined; `None` if all pages have an owner.
    pub(super) fn take(&mut self) -> Option<u32> {
        let (_, page) = self.free.pop_first()?;
        self.unpublish(page);
        self.pages[page as usize].n_owners = 1;
        Some(page)
    }

    /// The page with these tokens after `before`, the caller being one more owner.
    pub(super) fn find(&mut self, before: Option<Content>, tokens: &[u32; PAGE_LEN]) -> Option<(u32, Content)> {
        let page = *self.by_key.get(&(before, *tokens))?;
        let entry = &mut self.pages[page as usize];
        if entry.n_owners == 0 {
            self.free.remove(&entry.freed_at);
        }
        entry.n_owners += 1;
        entry.published.map(|(_, content)| (page, content))
    }

    /// Says what a full page holds, so that others find it. If another page holds the same already, that one stays the
    /// one to be found.
    pub(super) fn publish(&mut self, page: u32, before: Option<Content>, tokens: &[u32; PAGE_LEN]) -> Content {
        let key = (before, *tokens);
        if let Some(&other) = self.by_key.get(&key)
            && let Some((_, content)) = self.pages[other as usize].published
        {
            return content;
        }
        let content = Content(self.tick());
        self.by_key.insert(key, page);
        self.pages[page as usize].published = Some((key, content));
        content
    }

    /// Whether the page may be written to: it has one owner. It can no longer be found then.
    pub(super) fn make_writable(&mut self, page: u32) -> bool {
        let alone = self.pages[page as usize].n_owners == 1;
        if alone {
            self.unpublish(page);
        }
        alone
    }

    /// Gives up one ownership.
    ///
    /// # Panics
    /// If nobody owns the page.
    pub(super) fn release(&mut self, page: u32) {
        let now = self.tick();
        let entry = &mut self.pages[page as usize];
        assert!(entry.n_owners > 0, "page {page} is released by one who does not own it");
        entry.n_owners -= 1;
        if entry.n_owners == 0 {
            entry.freed_at = now;
            self.free.insert(now, page);
        }
    }

    fn unpublish(&mut self, page: u32) {
        if let Some((key, _)) = self.pages[page as usize].published.take() {
            self.by_key.remove(&key);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: [u32; PAGE_LEN] = [1; PAGE_LEN];
    const B: [u32; PAGE_LEN] = [2; PAGE_LEN];

    #[test]
    fn pages_run_out_and_come_back() {
        let mut pool = PagePool::new(2);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
        assert_ne!(a, b);
        assert_eq!(pool.take(), None);
        pool.release(a);
        assert_eq!(pool.take(), Some(a));
    }

    #[test]
    fn a_prefix_is_found_by_content_and_place() {
        let mut pool = PagePool::new(4);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
        let first = pool.publish(a, None, &A);
        let second = pool.publish(b, Some(first), &B);
        assert_eq!(pool.find(None, &A), Some((a, first)));
        assert_eq!(pool.find(Some(first), &B), Some((b, second)));
        assert_eq!(pool.find(None, &B), None);
        assert_eq!(pool.find(Some(second), &B), None);
    }

    #[test]
    fn free_pages_keep_their_content_until_they_are_taken() {
        let mut pool = PagePool::new(2);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
        let first = pool.publish(a, None, &A);
        pool.publish(b, Some(first), &B);
        pool.release(b);
        pool.release(a);
        let (found, content) = pool.find(None, &A).expect("still there");
        assert_eq!((found, content, pool.n_free()), (a, first, 1));
        // The only free page is the one of B, which is gone then.
        assert_eq!(pool.take(), Some(b));
        assert_eq!(pool.find(Some(first), &B), None);
    }

    #[test]
    fn what_followed_a_page_that_is_gone_is_not_found_after_its_successor() {
        let mut pool = PagePool::new(2);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
        let first = pool.publish(a, None, &A);
        pool.publish(b, Some(first), &B);
        pool.release(a);
        pool.release(b);
        let again = pool.take().expect("free");
        assert_eq!(again, a);
        let other = pool.publish(again, None, &B);
        assert_eq!(pool.find(Some(other), &B), None);
    }

    #[test]
    fn only_the_single_owner_may_write() {
        let mut pool = PagePool::new(1);
        let a = pool.take().expect("free");
        pool.publish(a, None, &A);
        pool.find(None, &A).expect("published");
        assert!(!pool.make_writable(a));
        pool.release(a);
        assert!(pool.make_writable(a));
        assert_eq!(pool.find(None, &A), None);
    }

    #[test]
    fn equal_content_in_two_pages_has_one_name() {
        let mut pool = PagePool::new(2);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
        assert_eq!(pool.publish(a, None, &A), pool.publish(b, None, &A));
        assert!(pool.make_writable(b));
        assert_eq!(pool.find(None, &A).map(|(page, _)| page), Some(a));
    }

    proptest! {
        /// A model of the pool: who owns what. No page is lost, none is handed out twice, and a page that is found
        /// still holds what was published.
        #[test]
        fn owners_are_counted(ops in prop::collection::vec((0u8..4, 0usize..8, 1u32..4), 0..200)) {
            let mut pool = PagePool::new(6);
            let mut owned: Vec<u32> = Vec::new();
            let mut holds: HashMap<u32, [u32; PAGE_LEN]> = HashMap::new();
            for (op, i, token) in ops {
                let tokens = [token; PAGE_LEN];
                match op {
                    0 => match pool.take() {
                        Some(page) => {
                            prop_assert!(!owned.contains(&page));
                            owned.push(page);
                            holds.remove(&page);
                        }
                        None => prop_assert_eq!(owned.iter().collect::<std::collections::HashSet<_>>().len(), 6),
                    },
                    1 if !owned.is_empty() => {
                        let page = owned[i % owned.len()];
                        if pool.make_writable(page) {
                            holds.insert(page, tokens);
                            pool.publish(page, None, &tokens);
                        }
                    }
                    2 => if let Some((page, _)) = pool.find(None, &tokens) {
                        prop_assert_eq!(holds.get(&page), Some(&tokens));
                        owned.push(page);
                    },
                    _ if !owned.is_empty() => pool.release(owned.swap_remove(i % owned.len())),
                    _ => {}
                }
                let distinct = owned.iter().collect::<std::collections::HashSet<_>>().len();
                prop_assert_eq!(pool.n_free() + distinct, 6);
            }
        }
    }
}
