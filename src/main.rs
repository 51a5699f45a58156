//! The command `halfbyte`: parse, run, exit code. Everything else is in `cli` and in the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
