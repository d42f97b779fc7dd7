//! The files that a daemon reads, replaced as others do: in place, in halves, and by a link that is swapped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a file stays half written: longer than the daemon's look every 10 s takes to meet it now and then.
const HALF: Duration = Duration::from_millis(500);

/// A file, reached through a link.
pub struct Rotated {
    folder: PathBuf,
    name: &'static str,
    content: String,
    turn: u32,
}

impl Rotated {
    pub fn new(folder: &Path, name: &'static str, content: String) -> Result<Self> {
        let mut made = Self { folder: folder.to_owned(), name, content, turn: 0 };
        made.swap()?;
        Ok(made)
    }

    /// Where the daemon finds it.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// A new file behind the same name.
    pub fn swap(&mut self) -> Result<()> {
        self.turn += 1;
        let target = self.folder.join(format!("{}-{}", self.name, self.turn));
        let link = self.folder.join(format!("{}-new", self.name));
        fs::write(&target, &self.content).with_context(|| format!("write {}", target.display()))?;
        symlink(&target, &link).context("make a link")?;
        fs::rename(&link, self.path()).context("swap a link")
    }

    /// Half of it, then the whole.
    pub fn halve(&self) -> Result<()> {
        fs::write(self.path(), &self.content[..self.content.len() / 2]).context("write half a file")?;
        thread::sleep(HALF);
        fs::write(self.path(), &self.content).context("write the rest of a file")
    }
}
