//! Conntrack entries of flows that are none of apivip's business.
//! In: a namespace and how many. Out: they are in its table for ten minutes.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::netns::Namespace;

/// The port that all of them go to.
pub const PORT: u16 = 8080;

/// Client ports of one address.
const PORTS: u32 = 60_000;

/// Adds established flows between strangers.
pub fn fill_conntrack(namespace: &Namespace, folder: &Path, count: u32) -> Result<()> {
    fill_conntrack_at(PORT, namespace, folder, count)
}

/// The same, with flows to another port than those that are there.
pub fn fill_conntrack_at(port: u16, namespace: &Namespace, folder: &Path, count: u32) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let path = folder.join("foreign-flows");
    let mut text = String::new();
    for i in 0..count {
        let (source, host) = (1024 + i % PORTS, 2 + i / PORTS);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "-I -p tcp -s 198.51.100.{host} -d 198.51.100.1 --sport {source} --dport {port} --state ESTABLISHED \
             --timeout 600 -u ASSURED"
        );
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    namespace.run("conntrack", &["-R", &path.display().to_string()]).context("add foreign flows").map(drop)
}
