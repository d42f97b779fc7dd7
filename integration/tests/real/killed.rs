//! What is left of a whole cluster when the process that started it is killed: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::command;
use integration::process::Spawned;
use integration::real::node::hierarchies;

/// Longest until the cluster runs, and until it is gone. They take half a minute and a second.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_cluster_ends_with_the_process_that_started_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut bench = Command::new(command::program("lease-bench")?);
    bench.args(["--seconds", "600"]);
    let mut owner = Spawned::start("lease-bench", bench, folder.path())?;
    let prefix = format!("apivip-{}-", owner.pid());
    until("a kubelet that has made its cgroups", || {
        ensure!(owner.exited()?.is_none(), "{}", owner.tail());
        Ok(cgroups(&prefix).iter().any(|group| group.join("kubepods").exists()))
    })?;
    let mut processes = BTreeSet::new();
    for namespace in names_in(Path::new("/run/netns"), &prefix) {
        let mut pids = Command::new("ip");
        pids.args(["netns", "pids", &namespace]);
        let listed = command::run(pids, "")?;
        processes.extend(listed.split_whitespace().map(str::to_owned));
    }
    ensure!(processes.len() > 8, "etcd, apiservers, controllers, apivip and a node, but {processes:?}");
    owner.kill()?;
    until("an end of all that it started", || {
        let alive = processes.iter().any(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok());
        let namespaces = names_in(Path::new("/run/netns"), &prefix);
        let folders = names_in(&std::env::temp_dir(), &format!("apivip-lab-{}-", owner.pid()));
        let mounted = fs::read_to_string("/proc/self/mounts")?.contains(&prefix);
        Ok(!alive && !mounted && namespaces.is_empty() && folders.is_empty() && cgroups(&prefix).is_empty())
    })
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "no sign of {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Those of its node, in every hierarchy.
fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let roots = hierarchies().unwrap_or_default();
    roots.iter().flat_map(|root| names_in(root, prefix).into_iter().map(|name| root.join(name))).collect()
}

fn names_in(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}
