//! candidate — a token that may be chosen, in integers that order tokens.
//!
//! exports  Candidate, NONE, NO_TOKEN, candidate(bits, id), is_better, is_finite
//! cpu      src/backend/draw.rs

struct Candidate {
    /// Orders logits as they are ordered: both zeros are one, and what is not a number comes out on top.
    key: u32,
    id: u32,
}

/// Worse than any logit.
const NONE = Candidate(0u, 0xffffffffu);
/// In place of a token that does not exist.
const NO_TOKEN = 0xffffffffu;

/// The candidate `id` with a logit of these bits. No f32 is touched, so that no device flushes or reorders anything.
fn candidate(bits: u32, id: u32) -> Candidate {
    var key = select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        key = 0xffffffffu;
    }
    return Candidate(key, id);
}

/// Of equal logits the lower id is the better one.
fn is_better(a: Candidate, b: Candidate) -> bool {
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

fn is_finite(key: u32) -> bool {
    return key >= 0x00800000u && key < 0xff800000u;
}
