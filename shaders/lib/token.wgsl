//! token — the token of a row, which the step before may have chosen.
//!
//! exports  row_token(row)
//! import   row
//! cpu      src/backend/cpu/mod.rs

/// Tokens that the last step chose, by output row.
@group(0) @binding(7) var<storage, read> chosen: array<u32>;

fn row_token(row: Row) -> u32 {
    if row.token < 0x80000000u {
        return row.token;
    }
    return chosen[row.token - 0x80000000u];
}
