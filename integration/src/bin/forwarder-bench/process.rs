//! What a running proxy costs: the processes of a tree, from /proc.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks of proc_pid_stat(5) in a second, on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// A process and its children.
fn tree(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let parsed = children.split_whitespace().map(|child| child.parse().context("parse a child's pid"));
    std::iter::once(Ok(pid)).chain(parsed).collect()
}

/// Processor time of the whole tree, in seconds.
pub fn seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for pid in tree(pid)? {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read a proxy's times")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        for field in [11, 12] {
            ticks += fields.get(field).context("too few fields")?.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 / TICKS)
}

/// Resident memory of the whole tree, in KiB.
pub fn resident(pid: u32) -> Result<f64> {
    let mut sum = 0.0;
    for pid in tree(pid)? {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a proxy's memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>().context("parse VmRSS")?;
    }
    Ok(sum)
}
