//! The command `halfbyte`.

mod cli;

fn main() {}
