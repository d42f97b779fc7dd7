//! The files that a daemon reads, replaced as others do: in place, in halves, and by a link that is swapped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a file stays half written: often long enough for the daemon's look every 2 s to meet it.
const HALF: Duration = Duration::from_millis(500);

/// A file, reached through a link.
pub struct Rotated {
    folder: PathBuf,
    name: &'static str,
    turn: u32,
}

impl Rotated {
    pub fn new(folder: &Path, name: &'static str, content: &str) -> Result<Self> {
        let mut made = Self { folder: folder.to_owned(), name, turn: 0 };
        made.swap(content)?;
        Ok(made)
    }

    /// Where the daemon finds it.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// A new file behind the same name.
    fn swap(&mut self, content: &str) -> Result<()> {
        self.turn += 1;
        let target = self.folder.join(format!("{}-{}", self.name, self.turn));
        let link = self.folder.join(format!("{}-new", self.name));
        fs::write(&target, content).with_context(|| format!("write {}", target.display()))?;
        symlink(&target, &link).context("make a link")?;
        fs::rename(&link, self.path()).context("swap a link")
    }

    /// The first half in place, then the whole.
    fn halve(&self, content: &str) -> Result<()> {
        fs::write(self.path(), &content[..content.len() / 2]).context("write half a file")?;
        thread::sleep(HALF);
        fs::write(self.path(), content).context("write the rest of a file")
    }

    /// Replaces what it holds, one way or the other.
    pub fn renew(&mut self, content: &str, half: bool) -> Result<()> {
        if half { self.halve(content) } else { self.swap(content) }
    }
}
