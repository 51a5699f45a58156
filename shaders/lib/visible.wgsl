//! visible — which positions a row may see, and how they are split over workgroups.
//!
//! exports visible_from  the first position that a row at `pos` sees
//!         split_from    where the splits of a row at `pos` begin: at a page
//!         n_splits      how many there are
//! const   WINDOW  0 for none;  SPLIT  positions of a split, 0 if there is one only
//! import  page
//! cpu     src/backend/gpu/attention.rs

override WINDOW: u32;
override SPLIT: u32;

fn visible_from(pos: u32) -> u32 {
    return select(0u, pos - WINDOW + 1u, WINDOW > 0u && pos >= WINDOW);
}

fn split_from(pos: u32) -> u32 {
    return visible_from(pos) / PAGE_LEN * PAGE_LEN;
}

fn n_splits(pos: u32) -> u32 {
    return (pos - split_from(pos)) / max(SPLIT, 1u) + 1u;
}
