//! row — what a step says about each of its rows.
//!
//! exports Row  as the program writes it, 16 bytes
//! cpu     src/backend/gpu/program.rs

struct Row {
    token: u32,
    /// Position in its sequence.
    pos: u32,
    /// Where its keys and values go: page · PAGE_LEN + position within the page.
    slot: u32,
    /// Where the page table of its sequence begins in `tables`.
    table: u32,
}
