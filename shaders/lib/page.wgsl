//! page — where a position's keys and values lie in the KV cache of a layer.
//!
//! A page holds PAGE_LEN positions of every KV head, KV_LEN elements each; `kv` says what an element is and how they are
//! ordered. A slot is page · PAGE_LEN + position within the page.
//!
//! exports PAGE_LEN
//! const   N_HEAD_KV, HEAD_DIM

const PAGE_LEN = 32u;

override N_HEAD_KV: u32;
override HEAD_DIM: u32;
