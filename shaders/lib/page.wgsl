//! page — where a position's keys and values lie in the KV cache of a layer.
//!
//! A page holds PAGE_LEN positions of every KV head. Keys are `[page][head][Dh/4][PAGE_LEN][4]`, so that neighbouring
//! invocations, which take neighbouring positions, read neighbouring memory; values are `[page][head][PAGE_LEN][Dh/4][4]`,
//! since there neighbouring invocations take neighbouring elements. A slot is page · PAGE_LEN + position within the page.

const PAGE_LEN = 32u;

override N_HEAD_KV: u32;
override HEAD_DIM: u32;

/// Index of four elements of a key, in units of four elements.
fn key_at(slot: u32, head: u32, d4: u32) -> u32 {
    return ((slot / PAGE_LEN * N_HEAD_KV + head) * (HEAD_DIM / 4u) + d4) * PAGE_LEN + slot % PAGE_LEN;
}

/// Index of four elements of a value, in units of four elements.
fn value_at(slot: u32, head: u32, d4: u32) -> u32 {
    return ((slot / PAGE_LEN * N_HEAD_KV + head) * PAGE_LEN + slot % PAGE_LEN) * (HEAD_DIM / 4u) + d4;
}
