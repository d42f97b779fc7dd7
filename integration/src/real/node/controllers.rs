//! kube-controller-manager and kube-scheduler.
//! In: where they run, and kubeconfigs. Out: two running programs, each the leader of its kind.

use std::path::PathBuf;

use anyhow::Result;

use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::Spawned;
use crate::real::cached;

const MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// Their names, which are those of their leases in the namespace `kube-system` as well.
pub const NAMES: [&str; 2] = [MANAGER, SCHEDULER];

/// What they read.
#[derive(Clone, Debug)]
pub struct ControllerFiles {
    /// The kubeconfig of `system:kube-controller-manager`.
    pub manager: PathBuf,
    /// The kubeconfig of `system:kube-scheduler`.
    pub scheduler: PathBuf,
    /// The authority that Pods verify the API by.
    pub authority: PathBuf,
    /// The key that signs tokens of service accounts.
    pub signing_key: PathBuf,
}

/// Both. Dropping it ends them.
#[derive(Debug)]
pub struct Controllers<'lab> {
    lab: &'lab Lab,
    at: &'lab Namespace,
    files: ControllerFiles,
    processes: Vec<(&'static str, Spawned)>,
}

impl<'lab> Controllers<'lab> {
    /// Starts them without waiting.
    pub fn start(lab: &'lab Lab, at: &'lab Namespace, files: ControllerFiles) -> Result<Self> {
        let mut made = Self { lab, at, files, processes: Vec::new() };
        for name in NAMES {
            let process = made.run(name)?;
            made.processes.push((name, process));
        }
        Ok(made)
    }

    fn run(&self, name: &str) -> Result<Spawned> {
        let mut command = self.at.command(cached(name)?);
        command.args(["--bind-address=127.0.0.1", "--leader-elect", "--kubeconfig"]);
        if name == SCHEDULER {
            command.arg(&self.files.scheduler);
        } else {
            command.arg(&self.files.manager).arg("--root-ca-file").arg(&self.files.authority);
            command.arg("--service-account-private-key-file").arg(&self.files.signing_key);
            command.arg("--use-service-account-credentials");
        }
        Spawned::start(name, command, self.lab.dir())
    }

    /// Starts those again that have ended, as they do when they lose their lease, and names them with the end of their log.
    pub fn revive(&mut self) -> Result<Vec<(&'static str, String)>> {
        let mut ended = Vec::new();
        for index in 0..self.processes.len() {
            let (name, process) = &mut self.processes[index];
            let name = *name;
            if process.exited()?.is_some() {
                ended.push((name, process.tail()));
                self.processes[index].1 = self.run(name)?;
            }
        }
        Ok(ended)
    }
}
