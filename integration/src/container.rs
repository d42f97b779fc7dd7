//! Mount and pid namespaces of their own over a node's network, as a container has that was given the host's network.
//! In: a lab. Out: programs inside, entered with `nsenter` as an operator does, and their ids outside.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::process::Spawned;

const LIMIT: Duration = Duration::from_secs(20);

/// The namespaces, and the first process inside. Dropping it ends both.
#[derive(Debug)]
pub struct Container {
    _unshare: Spawned,
    first: u32,
}

impl Container {
    /// Makes them on the lab's node.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.node().command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600"]);
        let mut unshare = Spawned::start("container", command, lab.dir())?;
        let first = child(&mut unshare)?;
        Ok(Self { _unshare: unshare, first })
    }

    /// Lets `nft` do this inside, and returns its process id outside.
    pub fn nft(&self, lab: &Lab, script: &str) -> Result<u32> {
        let fifo = lab.dir().join("go");
        lab.node().run("mkfifo", &[&fifo])?;
        let mut command = lab.node().command("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--net"]);
        // It waits until its id is known: nft is gone in no time.
        command.args(["sh", "-c", "read go <\"$0\"; exec nft \"$1\""]).arg(&fifo).arg(script);
        let mut nsenter = Spawned::start("nsenter", command, lab.dir())?;
        let pid = child(&mut nsenter)?;
        fs::write(&fifo, "go\n").context("let nft go")?;
        let status = nsenter.wait(LIMIT)?;
        ensure!(status.success(), "nft in other namespaces ended with {status}\n{}", nsenter.tail());
        fs::remove_file(&fifo).context("remove the fifo")?;
        Ok(pid)
    }
}

/// The only child of a process, once it has one.
pub(crate) fn child(of: &mut Spawned) -> Result<u32> {
    let pid = of.pid();
    let children = format!("/proc/{pid}/task/{pid}/children");
    of.wait_until("a child", LIMIT, |_| {
        let listed = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        Ok(listed.split_whitespace().next().and_then(|child| child.parse().ok()))
    })
}
