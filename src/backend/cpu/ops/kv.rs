//! The KV cache: keys and values of each layer, in pages that sequences own, share and give back.
//!
//! A page holds [`PAGE_LEN`] positions of all layers, and is allocated when a step first writes to it: a context of
//! 8,192 positions costs nothing before it is used. Within a page each layer has its keys and then its values, both
//! `[Hkv, PAGE_LEN, Dh]`, so that a head reads its positions one after the other.

use crate::backend::{PAGE_LEN, Step};
use crate::graph::KvShape;

/// All pages of a program.
pub(crate) struct KvCache {
    layers: Vec<KvShape>,
    /// Where each layer starts in a page.
    starts: Vec<usize>,
    page_len: usize,
    pages: Vec<Option<Box<[f32]>>>,
}

impl KvCache {
    /// A cache of `n_pages` pages, none of them allocated yet.
    pub(crate) fn new(layers: &[KvShape], n_pages: usize) -> Self {
        let mut page_len = 0;
        let starts = layers.iter().map(|layer| {
            let start = page_len;
            page_len += 2 * PAGE_LEN * layer.n_head_kv * layer.head_dim;
            start
        });
        Self { starts: starts.collect(), layers: layers.to_vec(), page_len, pages: vec![None; n_pages] }
    }

    /// Bytes of the pages that are allocated.
    pub(crate) fn bytes(&self) -> u64 {
        (self.pages.iter().flatten().count() * self.page_len * size_of::<f32>()) as u64
    }

    /// Writes the keys and values `[T, Hkv·Dh]` of all rows of a step.
    pub(crate) fn store_step(&mut self, layer: usize, step: &Step<'_>, k: &[f32], v: &[f32]) {
        let width = self.layers[layer].n_head_kv * self.layers[layer].head_dim;
        for ((row, k), v) in step.rows.iter().zip(k.chunks_exact(width)).zip(v.chunks_exact(width)) {
            let pos = row.pos as usize;
            self.store(layer, step.pages[row.seq as usize][pos / PAGE_LEN], pos % PAGE_LEN, k, v);
        }
    }

    /// Writes the key and the value `[Hkv·Dh]` of one row of `layer` to `page`, at `slot` of its positions.
    fn store(&mut self, layer: usize, page: u32, slot: usize, k: &[f32], v: &[f32]) {
        let KvShape { n_head_kv, head_dim } = self.layers[layer];
        let start = self.starts[layer];
        let page = self.pages[page as usize].get_or_insert_with(|| vec![0.0; self.page_len].into());
        for (half, heads) in [k, v].into_iter().enumerate() {
            for (head, numbers) in heads.chunks_exact(head_dim).enumerate() {
                let row = (half * n_head_kv + head) * PAGE_LEN + slot;
                page[start + row * head_dim..][..head_dim].copy_from_slice(numbers);
            }
        }
    }

    /// Keys and values of the head `head_kv` of `layer` in `page`, `[PAGE_LEN, Dh]` each.
    ///
    /// # Panics
    /// If nothing was ever stored in the page.
    #[inline(always)]
    pub(crate) fn head(&self, layer: usize, page: u32, head_kv: usize) -> (&[f32], &[f32]) {
        let KvShape { n_head_kv, head_dim } = self.layers[layer];
        let data = self.pages[page as usize].as_deref().expect("a row attends only to positions that were stored");
        let len = PAGE_LEN * head_dim;
        let head = |i: usize| &data[self.starts[layer] + i * len..][..len];
        (head(head_kv), head(n_head_kv + head_kv))
    }
}
