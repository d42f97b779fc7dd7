//! What a node's kubelet and containers run in: mount and pid namespaces of their own over the network of the lab's node.
//! In: a lab. Out: commands that run inside, and the paths of files there.
//!
//! A shell outside waits for the end of its input, which comes when the sandbox is dropped, and also when the test is killed.
//! The first process inside ends then, and the kernel ends all others and every mount with it. What the kernel leaves are
//! cgroups: the shell removes those.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::process::Spawned;

/// Longest until it is made, and until it is gone. Both take a tenth of a second.
const LIMIT: Duration = Duration::from_secs(60);

/// `$0` is the network namespace, `$1` the script of the first process inside, all others the node's cgroups. The input moves to
/// another descriptor, as the shell gives programs in the background none.
const OUTSIDE: &str = r#"
nsenter --net="/run/netns/$0" unshare --mount --pid --fork --kill-child --mount-proc sh -e -c "$1"
shift
for group; do
    for attempt in 1 2 3 4 5; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + || sleep 0.2
    done
done
"#;

/// The folders of a node are its own, and so are the settings of the whole kernel that a kubelet writes: what it writes goes to
/// a file that hides them.
const INSIDE: &str = r#"
mount -t tmpfs -o mode=755 node /mnt
cp -a /etc/. /mnt/
mount --move /mnt /etc
for folder in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 node "$folder"
done
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file=/run/settings/$setting
    mkdir -p "${file%/*}"
    cat "/proc/sys/$setting" >"$file"
    mount --bind "$file" "/proc/sys/$setting"
done
echo ready
exec 3<&0
cat <&3 >/dev/null &
wait $!
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The namespaces. Dropping it ends everything inside.
#[derive(Debug)]
pub struct Sandbox {
    input: Option<ChildStdin>,
    outside: Spawned,
    first: u32,
    cgroup: String,
}

impl Sandbox {
    /// Makes it on the lab's node, with a cgroup of its own below the root of each hierarchy.
    pub fn start(lab: &Lab) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("apivip-{}-{number}", std::process::id());
        let groups: Vec<PathBuf> = hierarchies()?.into_iter().map(|root| root.join(&cgroup)).collect();
        // In a session of its own: what interrupts the test from a terminal is not to end it before it has cleaned up.
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", OUTSIDE, lab.node().name(), INSIDE]).args(&groups);
        let (mut outside, input) = Spawned::start_with_input("node", command, lab.dir())?;
        // Made after the shell that removes them.
        for group in &groups {
            fs::create_dir(group).with_context(|| format!("make the cgroup {}", group.display()))?;
        }
        outside.wait_for_line("ready", LIMIT)?;
        let unshare = only_child(outside.pid())?;
        let first = only_child(unshare)?;
        Ok(Self { input: Some(input), outside, first, cgroup })
    }

    /// A command that runs inside. `nsenter` stays outside as the parent of the program.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--net"]).arg(program);
        command
    }

    /// Where a file of the node stands for this process. `inside` is absolute.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.first.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// The name of the node's cgroup below the root of each hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.outside.wait(LIMIT) {
            eprintln!("{error:#}");
        }
    }
}

fn only_child(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let deadline = Instant::now() + LIMIT;
    loop {
        let listed = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let mut children = listed.split_whitespace();
        if let Some(child) = children.next() {
            ensure!(children.next().is_none(), "process {pid} has more than one child: {listed}");
            return child.parse().with_context(|| format!("parse {path}"));
        }
        if Instant::now() >= deadline {
            bail!("process {pid} has no child");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where the hierarchies of cgroups are mounted, of either version.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found: Vec<PathBuf> = fields
        .filter(|fields| matches!(fields.get(2), Some(&("cgroup" | "cgroup2"))))
        .filter_map(|fields| fields.get(1).map(PathBuf::from))
        .collect();
    ensure!(!found.is_empty(), "this test needs cgroups, and none are mounted");
    Ok(found)
}
