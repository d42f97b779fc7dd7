//! Tells the program which commit it was built from, for `apivip --version`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=APIVIP_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // Git knows where these are, also in a linked worktree. A path that does not exist would rebuild every time.
    let paths = git(&["rev-parse", "--git-path", "HEAD", "--git-path", "refs/heads"]).unwrap_or_default();
    for path in paths.lines().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = std::env::var("APIVIP_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=APIVIP_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// `None` outside a checkout, as in a source archive.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
