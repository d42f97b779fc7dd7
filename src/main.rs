//! The `apivip` command: parses, dispatches, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    apivip::cli::main()
}
