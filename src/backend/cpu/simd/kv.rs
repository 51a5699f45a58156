//! The KV cache of the fast path: pages whose memory is taken when a step first writes to them, in the order in which attention
//! reads them.
//!
//! A page has [`PAGE_LEN`] positions of all layers. In it each layer has for each head its keys `[Dh, PAGE_LEN]`, so that a
//! vector is one element of many positions, and its values `[PAGE_LEN, Dh]`, so that a vector is many elements of one.
//! With `q8_0` a scale is for 32 elements of one position, as in ggml's format; keys and values each have theirs behind them,
//! `[Dh / 32, PAGE_LEN]`.

use half::f16;

use super::Isa;
use super::vector::{Kernel, MAX_LANES, Vector};
use crate::backend::cpu::advice::want_large_pages;
use crate::backend::{KvFormat, PAGE_LEN, Step};
use crate::graph::KvShape;

/// Elements that share a scale in `q8_0`.
pub(in crate::backend::cpu) const BLOCK: usize = 32;
/// Bytes that are allocated together, unless a page is more: the system gives memory only as far as it is written to.
const SLAB_BYTES: usize = 64 << 20;
/// Bytes behind a page that are read with its last head, whatever they are.
const BEYOND: usize = 2 * MAX_LANES * size_of::<f32>();

/// All pages of a program.
pub(in crate::backend::cpu) struct Cache {
    format: KvFormat,
    layers: Vec<KvShape>,
    /// Where each layer starts in a page, in bytes.
    starts: Vec<usize>,
    page_bytes: usize,
    /// Pages that follow each other, once one of them is needed, as words, which numbers of all formats are aligned in.
    slabs: Vec<Option<Box<[u32]>>>,
    slab_pages: usize,
    /// Whether anything was ever stored in a page.
    is_used: Vec<bool>,
    /// A row of a head, before it is put where it belongs.
    halves: Vec<u16>,
}

/// Bytes of the keys of a head in a page, as many as of the values.
fn head_bytes(format: KvFormat, head_dim: usize) -> usize {
    match format {
        KvFormat::F32 => 4 * head_dim * PAGE_LEN,
        KvFormat::F16 => 2 * head_dim * PAGE_LEN,
        KvFormat::Q8_0 => (head_dim + 2 * head_dim.div_ceil(BLOCK)) * PAGE_LEN,
    }
}

impl Cache {
    /// A cache of `n_pages` pages, none of them allocated yet.
    pub(in crate::backend::cpu) fn new(format: KvFormat, layers: &[KvShape], n_pages: usize) -> Self {
        let mut page_bytes = 0;
        let starts = layers.iter().map(|layer| {
            let start = page_bytes;
            page_bytes += 2 * layer.n_head_kv * head_bytes(format, layer.head_dim);
            start
        });
        let starts = starts.collect();
        // Words, of which an odd half may be left over.
        let page_bytes = page_bytes.next_multiple_of(size_of::<u32>());
        let slab_pages = (SLAB_BYTES / page_bytes.max(1)).clamp(1, n_pages.max(1));
        Self {
            format,
            starts,
            layers: layers.to_vec(),
            page_bytes,
            slabs: vec![None; n_pages.div_ceil(slab_pages)],
            slab_pages,
            is_used: vec![false; n_pages],
            halves: Vec::new(),
        }
    }

    /// How numbers are stored.
    pub(in crate::backend::cpu) fn format(&self) -> KvFormat {
        self.format
    }

    /// Bytes of the pages in which anything was ever stored.
    pub(in crate::backend::cpu) fn bytes(&self) -> u64 {
        (self.is_used.iter().filter(|&&is_used| is_used).count() * self.page_bytes) as u64
    }

    /// The slab that a page is in, and the byte of it where a layer starts there.
    fn place(&self, layer: usize, page: usize) -> (usize, usize) {
        (page / self.slab_pages, page % self.slab_pages * self.page_bytes + self.starts[layer])
    }

    /// Writes the keys and values `[T, Hkv·Dh]` of all rows of a step.
    pub(in crate::backend::cpu) fn store_step(
        &mut self,
        isa: Isa,
        layer: usize,
        step: &Step<'_>,
        k: &[f32],
        v: &[f32],
    ) {
        let KvShape { n_head_kv, head_dim } = self.layers[layer];
        let width = n_head_kv * head_dim;
        let bytes = head_bytes(self.format, head_dim);
        let slab_words = (self.slab_pages * self.page_bytes + BEYOND) / size_of::<u32>();
        for ((row, k), v) in step.rows.iter().zip(k.chunks_exact(width)).zip(v.chunks_exact(width)) {
            let (page, slot) = (row.pos as usize / PAGE_LEN, row.pos as usize % PAGE_LEN);
            let page = step.pages[row.seq as usize][page] as usize;
            let (slab, start) = self.place(layer, page);
            let slab = self.slabs[slab].get_or_insert_with(|| {
                let slab = vec![0; slab_words].into_boxed_slice();
                want_large_pages(&slab);
                slab
            });
            self.is_used[page] = true;
            let heads = &mut bytemuck::cast_slice_mut::<u32, u8>(slab)[start..][..2 * n_head_kv * bytes];
            let (keys, values) = heads.split_at_mut(n_head_kv * bytes);
            for (bytes, numbers) in keys.chunks_exact_mut(bytes).zip(k.chunks_exact(head_dim)) {
                store(isa, self.format, numbers, bytes, slot, |i| i * PAGE_LEN + slot, &mut self.halves);
            }
            for (bytes, numbers) in values.chunks_exact_mut(bytes).zip(v.chunks_exact(head_dim)) {
                store(isa, self.format, numbers, bytes, slot, |i| slot * head_dim + i, &mut self.halves);
            }
        }
    }

    /// Keys and values of the head `head_kv` of `layer` in `page`.
    ///
    /// # Panics
    /// If nothing was ever stored in the page.
    pub(in crate::backend::cpu) fn head(&self, layer: usize, page: u32, head_kv: usize) -> Head<'_> {
        let KvShape { n_head_kv, head_dim } = self.layers[layer];
        let page = page as usize;
        assert!(self.is_used[page], "a row attends only to positions that were stored");
        let (slab, start) = self.place(layer, page);
        let slab = self.slabs[slab].as_deref().expect("it has a page that is used");
        let bytes = head_bytes(self.format, head_dim);
        let head = |i: usize| &bytemuck::cast_slice(slab)[start + i * bytes..][..bytes];
        Head { format: self.format, head_dim, keys: head(head_kv), values: head(n_head_kv + head_kv) }
    }
}

/// Stores the numbers of a head at the position `slot` of a page: number i at `at(i)`.
fn store(
    isa: Isa,
    format: KvFormat,
    numbers: &[f32],
    bytes: &mut [u8],
    slot: usize,
    at: impl Fn(usize) -> usize,
    halves: &mut Vec<u16>,
) {
    match format {
        KvFormat::F32 => {
            let to: &mut [f32] = bytemuck::cast_slice_mut(bytes);
            numbers.iter().enumerate().for_each(|(i, &x)| to[at(i)] = x);
        }
        KvFormat::F16 => {
            halves.resize(halves.len().max(numbers.len() + MAX_LANES), 0);
            isa.run(ToHalves(numbers, halves));
            let to: &mut [u16] = bytemuck::cast_slice_mut(bytes);
            halves.iter().take(numbers.len()).enumerate().for_each(|(i, &x)| to[at(i)] = x);
        }
        KvFormat::Q8_0 => {
            let (quants, scales) = bytes.split_at_mut(numbers.len() * PAGE_LEN);
            let scales: &mut [u16] = bytemuck::cast_slice_mut(scales);
            for (b, block) in numbers.chunks(BLOCK).enumerate() {
                let largest = block.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
                let per_unit = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                scales[b * PAGE_LEN + slot] = f16::from_f32(largest / 127.0).min(f16::MAX).to_bits();
                for (i, x) in block.iter().enumerate() {
                    quants[at(b * BLOCK + i)] = (x * per_unit).round() as i8 as u8;
                }
            }
        }
    }
}

/// Numbers in half precision, those over its largest one as that: an infinite key would make all scores NaN. The other slice
/// has room for a register more.
struct ToHalves<'a>(&'a [f32], &'a mut [u16]);

impl Kernel for ToHalves<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.1.len() >= self.0.len() + V::LEN, "room for whole registers");
        for i in (0..self.0.len()).step_by(V::LEN) {
            let n = V::LEN.min(self.0.len() - i);
            // SAFETY: n numbers are there, and room for a register.
            unsafe {
                let (x, most) = (V::load_first(self.0.as_ptr().add(i), n), f16::MAX.to_f32());
                x.min(V::splat(most)).max(V::splat(-most)).store_half(self.1.as_mut_ptr().add(i));
            }
        }
    }
}

/// Where numbers are, and in which precision.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) enum Numbers {
    Floats(*const f32),
    Halves(*const u16),
    /// To be multiplied with scales in half precision, `[Dh / 32, PAGE_LEN]`.
    Bytes(*const i8, *const u16),
}

impl Numbers {
    /// The scales from the i-th on, if there are any.
    #[inline(always)]
    pub(in crate::backend::cpu) fn scales(self, i: usize) -> Option<*const u16> {
        if let Self::Bytes(_, scales) = self { Some(scales.wrapping_add(i)) } else { None }
    }
}

/// Keys and values of a head in a page. Behind them there are [`BEYOND`] bytes that can be read.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Head<'a> {
    format: KvFormat,
    head_dim: usize,
    keys: &'a [u8],
    values: &'a [u8],
}

impl Head<'_> {
    /// The bytes of the keys.
    pub(in crate::backend::cpu) fn keys(&self) -> &[u8] {
        self.keys
    }

    /// The bytes of the values.
    pub(in crate::backend::cpu) fn values(&self) -> &[u8] {
        self.values
    }

    /// The keys `[Dh, PAGE_LEN]`: where they are, unless all but f32 is to be converted into the `panel`.
    ///
    /// # Safety
    /// The processor has the instruction set of `V`, and the panel has [`panel_len`] numbers.
    #[inline(always)]
    pub(in crate::backend::cpu) unsafe fn unpack_keys<V: Vector>(&self, panel: *mut f32, in_f32: bool) -> Numbers {
        let p = self.keys.as_ptr();
        // SAFETY: as many numbers are there.
        unsafe {
            match self.format {
                KvFormat::F32 => return Numbers::Floats(p.cast()),
                KvFormat::F16 if !in_f32 => return Numbers::Halves(p.cast()),
                KvFormat::F16 => {
                    for i in (0..self.head_dim * PAGE_LEN).step_by(V::LEN) {
                        V::load_half(p.cast::<u16>().add(i)).store(panel.add(i));
                    }
                }
                KvFormat::Q8_0 => {
                    let scales = p.add(self.head_dim * PAGE_LEN).cast::<u16>();
                    if !in_f32 {
                        return Numbers::Bytes(p.cast(), scales);
                    }
                    for slots in (0..PAGE_LEN).step_by(V::LEN) {
                        for b in 0..self.head_dim.div_ceil(BLOCK) {
                            let scale = V::load_half(scales.add(b * PAGE_LEN + slots));
                            for i in b * BLOCK..self.head_dim.min((b + 1) * BLOCK) {
                                let at = i * PAGE_LEN + slots;
                                V::load_i8(p.add(at).cast()).mul(scale).store(panel.add(at));
                            }
                        }
                    }
                }
            }
        }
        Numbers::Floats(panel)
    }

    /// The values, too, and how many numbers there are from one position to the next: Dh, or more.
    ///
    /// # Safety
    /// As for [`unpack_keys`](Self::unpack_keys).
    #[inline(always)]
    pub(in crate::backend::cpu) unsafe fn unpack_values<V: Vector>(
        &self,
        panel: *mut f32,
        in_f32: bool,
    ) -> (Numbers, usize) {
        let (p, width) = (self.values.as_ptr(), self.head_dim.next_multiple_of(BLOCK));
        // SAFETY: as many numbers are there; what is read beyond those of a position is not used.
        unsafe {
            match self.format {
                KvFormat::F32 => return (Numbers::Floats(p.cast()), self.head_dim),
                KvFormat::F16 if !in_f32 => return (Numbers::Halves(p.cast()), self.head_dim),
                KvFormat::F16 => {
                    for slot in 0..PAGE_LEN {
                        for i in (0..self.head_dim).step_by(V::LEN) {
                            let half = p.cast::<u16>().add(slot * self.head_dim + i);
                            V::load_half(half).store(panel.add(slot * width + i));
                        }
                    }
                }
                KvFormat::Q8_0 => {
                    let halves = p.add(self.head_dim * PAGE_LEN).cast::<u16>();
                    if !in_f32 {
                        return (Numbers::Bytes(p.cast(), halves), self.head_dim);
                    }
                    let scales = panel.add(width * PAGE_LEN + 2 * MAX_LANES);
                    for i in (0..width / BLOCK * PAGE_LEN).step_by(V::LEN) {
                        V::load_half(halves.add(i)).store(scales.add(i));
                    }
                    for slot in 0..PAGE_LEN {
                        for i in (0..self.head_dim).step_by(V::LEN) {
                            let scale = *scales.add(i / BLOCK * PAGE_LEN + slot);
                            let quants = V::load_i8(p.add(slot * self.head_dim + i).cast());
                            quants.mul(V::splat(scale)).store(panel.add(slot * width + i));
                        }
                    }
                }
            }
        }
        (Numbers::Floats(panel), width)
    }
}

/// Numbers in a panel of keys or values; behind them are a register or two that products read, and scales.
pub(in crate::backend::cpu) fn panel_len(head_dim: usize) -> usize {
    let width = head_dim.next_multiple_of(BLOCK);
    width * PAGE_LEN + 2 * MAX_LANES + width / BLOCK * PAGE_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Row, Want};

    #[test]
    fn numbers_beyond_half_precision_stay_finite() {
        let k = [1e6, -1e6, 65_519.0, 1.5];
        let v = [f32::MAX, -f32::MAX, 65_504.0, -0.25];
        let rows = [Row { token: 0, pos: 3, seq: 0 }];
        let step = Step { rows: &rows, pages: &[&[0]], outputs: &[], want: Want::Nothing };
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut cache = Cache::new(KvFormat::F16, &[KvShape { n_head_kv: 1, head_dim: 4 }], 1);
            cache.store_step(isa, 0, &step, &k, &v);
            let head = cache.head(0, 0, 0);
            let [keys, values] = [head.keys(), head.values()].map(bytemuck::cast_slice::<u8, f16>);
            let most = f16::MAX;
            let key: Vec<f16> = (0..4).map(|i| keys[i * PAGE_LEN + 3]).collect();
            assert_eq!(key, [most, -most, most, f16::from_f32(1.5)], "{isa}");
            assert_eq!(values[3 * 4..4 * 4], [most, -most, most, f16::from_f32(-0.25)], "{isa}");
        }
    }

    #[test]
    fn pages_of_different_slabs_keep_what_is_theirs() {
        let shape = KvShape { n_head_kv: 64, head_dim: 128 };
        let width = shape.n_head_kv * shape.head_dim;
        let isa = Isa::ALL.into_iter().find(|isa| isa.is_available()).expect("an instruction set");
        let mut cache = Cache::new(KvFormat::F32, &[shape], 70);
        assert!(cache.slabs.len() > 2, "pages in three slabs");
        let pages: [u32; 4] = [0, 31, 32, 69];
        for (i, &page) in pages.iter().enumerate() {
            let rows = [Row { token: 0, pos: 5, seq: 0 }];
            let step = Step { rows: &rows, pages: &[&[page]], outputs: &[], want: Want::Nothing };
            cache.store_step(isa, 0, &step, &vec![i as f32; width], &vec![-(i as f32); width]);
        }
        for (i, &page) in pages.iter().enumerate() {
            let head = cache.head(0, page, 63);
            let [keys, values] = [head.keys(), head.values()].map(bytemuck::cast_slice::<u8, f32>);
            assert_eq!((keys[127 * PAGE_LEN + 5], values[5 * 128 + 127]), (i as f32, -(i as f32)), "page {page}");
        }
        assert_eq!(cache.bytes(), (pages.len() * 2 * 4 * width * PAGE_LEN) as u64);
    }
}
