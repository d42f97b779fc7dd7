//! A daemon behind a socket load balancer: `integration/faults/socklb.c` says how.
//! In: a node, a folder of the test, what leads where. Out: options whose daemon is concerned by it, and nothing else is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::command;
use crate::daemon::DaemonOptions;
use crate::lab::Lab;

const SOURCE: &str = include_str!("../faults/socklb.c");

/// Several may be there at the same time.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The program that makes it, and the cgroup that it makes. Dropping this removes the cgroup; the daemon must have ended.
#[derive(Debug)]
pub struct SocketBalancer<'lab> {
    lab: &'lab Lab,
    program: PathBuf,
    mount: PathBuf,
    cgroup: String,
}

impl<'lab> SocketBalancer<'lab> {
    /// Builds the program.
    pub fn build(lab: &'lab Lab) -> Result<Self> {
        let (program, mount) = (lab.dir().join("socklb"), lab.dir().join("cgroup"));
        std::fs::create_dir(&mount).with_context(|| format!("make {}", mount.display()))?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-x", "c", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg("-");
        command::run(gcc, SOURCE)
            .context("build the socket load balancer (Debian packages gcc, libc6-dev, linux-libc-dev)")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { lab, program, mount, cgroup: format!("apivip-{}-socklb-{number}", process::id()) })
    }

    /// These options, with connections to `vip` led to `backend`, of the same family. One daemon at a time.
    #[must_use]
    pub fn in_daemon(
        &self,
        mut options: DaemonOptions,
        vip: SocketAddr,
        backend: SocketAddr,
    ) -> DaemonOptions {
        options.wrapper = self.wrapper(vip, backend);
        options
    }

    /// What stands before the words of a command whose connections are led so.
    pub fn wrapper(&self, vip: SocketAddr, backend: SocketAddr) -> Vec<String> {
        let mut wrapper = vec![self.program.display().to_string(), self.mount.display().to_string()];
        wrapper.push(self.cgroup.clone());
        for address in [vip, backend] {
            wrapper.extend([address.ip().to_string(), address.port().to_string()]);
        }
        wrapper.push("--".to_owned());
        wrapper
    }
}

impl Drop for SocketBalancer<'_> {
    fn drop(&mut self) {
        // `ip netns exec` has a mount namespace of its own, which ends with it.
        let mount = self.mount.display();
        let script = format!("mount -t cgroup2 none {mount} && rmdir {mount}/{}", self.cgroup);
        if let Err(error) = self.lab.node().run("sh", &["-c", &script]) {
            eprintln!("remove the cgroup: {error:#}");
        }
    }
}
