//! Tells the program which commit it was built from, for `apivip --version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=APIVIP_COMMIT");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    let commit = std::env::var("APIVIP_COMMIT").ok().or_else(git_commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=APIVIP_COMMIT={commit}");
}

/// `None` outside a checkout, as in a source archive.
fn git_commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
