//! A process with little of a processor, by the quota of a control group (cgroup v1, as on the machines that run these tests).
//! In: a process and a share. Out: a [`Throttle`] that gives it all back when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const CPU: &str = "/sys/fs/cgroup/cpu";

/// The period of the quota, in microseconds, which is the kernel's default.
const PERIOD: u32 = 100_000;

/// A process that is held back.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    before: PathBuf,
    pid: u32,
}

impl Throttle {
    /// Lets this process have so many percent of one processor.
    pub fn new(pid: u32, percent: u32) -> Result<Self> {
        let before = Path::new(CPU).join(group_of(pid)?);
        let group = before.join(format!("throttle-{pid}"));
        fs::create_dir(&group).with_context(|| {
            format!("make {}, a control group of version 1 with the controller cpu", group.display())
        })?;
        let made = Self { group, before, pid };
        made.write("cpu.cfs_period_us", PERIOD)?;
        made.write("cpu.cfs_quota_us", PERIOD / 100 * percent)?;
        made.write("cgroup.procs", pid)?;
        Ok(made)
    }

    fn write(&self, file: &str, value: u32) -> Result<()> {
        let path = self.group.join(file);
        fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))
    }
}

/// The group that it is in, below the mount of the controller.
fn group_of(pid: u32) -> Result<String> {
    let groups =
        fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read a process's control groups")?;
    let cpu = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|controller| controller == "cpu").then(|| path.trim_start_matches('/'))
    });
    Ok(cpu.context("no control groups of version 1 with the controller cpu")?.to_owned())
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Whoever has ended is in no group, and cannot be moved.
        let moved = fs::write(self.before.join("cgroup.procs"), self.pid.to_string());
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("remove {}: {error}; its process was moved: {moved:?}", self.group.display());
        }
    }
}
