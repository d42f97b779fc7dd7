//! How the program says no: an exit code and one readable line.
//! In: what a finished command left behind. Out: an error that shows all of it when it is not such a refusal.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::{self, Finished};

/// Something failed at run time.
pub const FAILED: i32 = 1;
/// Bad usage or configuration; nothing was touched.
pub const MISUSED: i32 = 2;

/// `apivip` with arguments, in the machine's own namespace and without what the environment says to it. A program that
/// panics would show where.
pub fn apivip<S: AsRef<str>>(arguments: &[S]) -> Result<Command> {
    let mut command = Command::new(command::program("apivip")?);
    clean_environment(&mut command);
    command.args(arguments.iter().map(AsRef::as_ref));
    Ok(command)
}

/// Takes away what would change the program's configuration, and asks for backtraces, so that one would be seen.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("APIVIP_") || text.starts_with("KUBERNETES_SERVICE_") {
            command.env_remove(&name);
        }
    }
    command.env("RUST_BACKTRACE", "1");
}

/// Fails unless `apivip` ended with `code`, printed nothing, and said one line that contains each of `words`.
pub fn expect(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    expect_of("apivip", finished, code, words)
}

/// The same of the program `name`.
pub fn expect_of(name: &str, finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    let Finished { status, stdout, stderr } = finished;
    let seen = || format!("it ended with {status} and said\n{stderr}and printed\n{stdout}");
    ensure!(status.code() == Some(code), "expected exit code {code}; {}", seen());
    ensure!(stdout.is_empty(), "expected nothing on stdout; {}", seen());
    let one_line = stderr.ends_with('\n') && stderr.lines().count() == 1;
    let named = stderr.strip_prefix(name).is_some_and(|rest| rest.starts_with(": "));
    ensure!(one_line && named, "expected one line of {name}'s; {}", seen());
    for word in words {
        ensure!(stderr.contains(word), "expected {word:?} in the line; {}", seen());
    }
    for word in ["panicked", "backtrace", "RUST_BACKTRACE", "\u{1b}"] {
        ensure!(!stderr.contains(word), "{word:?} is not for operators; {}", seen());
    }
    Ok(())
}
