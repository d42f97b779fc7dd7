//! The `apivip-audit` command: parses, audits, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    apivip::cli::audit::main()
}
