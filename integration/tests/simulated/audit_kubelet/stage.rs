//! A node, its simulated kubelet, and `apivip audit` on it with limits on time and memory.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::check::Checked;
use integration::command;
use integration::kubeconfig::{self, Kubeconfig, User};
use integration::lab::{Lab, LabOptions, addresses};
use integration::pki::{Authority, KeyFiles, ServerCertificate, Validity};
use integration::process::Spawned;
use integration::refusal;
use integration::sim::kubelet::{Kubelet, Options};

/// It promises to end within half a minute, and usually takes 4 s where a server hangs.
pub const LIMIT: Duration = Duration::from_secs(300);
/// In KiB. It usually takes 30 MiB, and a flood that was not cut off would be another 100.
const MOST_MEMORY: u64 = 90 << 10;
pub const NODE: &str = "node-1";
pub const TOKEN: &str = "audit-of-the-kubelet";

/// A node, and the files of an audit on it.
pub struct Stage {
    pub lab: Lab,
    pub authority: Authority,
    arguments: Vec<String>,
}

impl Stage {
    pub fn start() -> Result<Self> {
        let lab = Lab::start(LabOptions { pods: 0, apiservers: 1, ..LabOptions::default() })?;
        let authority = Authority::new(lab.dir(), "ca")?;
        let file = lab.dir().join("kubeconfig");
        let trust = kubeconfig::Authority::File(authority.certificate().to_owned());
        let api = addresses::apiserver(1, Family::V4);
        Kubeconfig::new(format!("https://{api}:6443"), trust, User::Token(TOKEN.to_owned())).write(&file)?;
        let arguments = ["--node-name", NODE, "--kubeconfig"].map(str::to_owned).to_vec();
        let mut stage = Self { lab, authority, arguments };
        stage.arguments.push(file.display().to_string());
        stage.processes(&[])?;
        Ok(stage)
    }

    /// The folder that stands for the host's /proc shows this command line, or no process.
    pub fn processes(&self, line: &[&str]) -> Result<PathBuf> {
        let proc = self.lab.dir().join("proc");
        let process = proc.join("100");
        fs::create_dir_all(&process)?;
        fs::write(process.join("cmdline"), line.iter().flat_map(|word| [word, "\0"]).collect::<String>())?;
        Ok(proc)
    }

    /// Its command line names a configuration file with this text.
    pub fn configured(&self, text: &str, flags: &[&str]) -> Result<()> {
        let file = self.lab.dir().join("kubelet.yaml");
        fs::write(&file, text)?;
        let config = format!("--config={}", file.display());
        self.processes(&[&["/usr/bin/kubelet", config.as_str()], flags].concat()).map(drop)
    }

    pub fn node_address(&self) -> IpAddr {
        addresses::node(Family::V4)
    }

    pub fn certificate(&self, by: &Authority, subject: &str, names: &[&str]) -> Result<KeyFiles> {
        self.certificate_of(by, subject, names, &[self.node_address()], Validity::Now)
    }

    pub fn certificate_of(
        &self,
        by: &Authority,
        subject: &str,
        names: &[&str],
        addresses: &[IpAddr],
        validity: Validity,
    ) -> Result<KeyFiles> {
        by.server_with(subject, &ServerCertificate { names, addresses, validity })
    }

    pub fn good(&self) -> Result<Options> {
        Ok(Options::good(self.certificate(&self.authority, "system:node:node-1", &[NODE])?, TOKEN))
    }

    pub fn kubelet(&self, options: Options) -> Result<Kubelet> {
        Kubelet::start(self.lab.node(), options)
    }

    /// Runs the audit, and fails if it takes too long or too much memory.
    pub fn audit(&self, more: &[&str]) -> Result<Checked> {
        let mut command = self.lab.node().command(command::program("apivip")?);
        refusal::clean_environment(&mut command);
        command.env_remove("NODE_NAME").args(["audit", "-o", "json", "--fail-on", "never"]);
        command.arg("--run-dir").arg(self.lab.dir().join("run"));
        command.arg("--state-dir").arg(self.lab.dir().join("state"));
        command.arg("--host-proc").arg(self.lab.dir().join("proc")).args(&self.arguments).args(more);
        let folder = tempfile::tempdir_in(self.lab.dir())?;
        let begin = Instant::now();
        let mut running = Spawned::start("audit", command, folder.path())?;
        let mut memory = 0;
        let status = loop {
            memory = memory.max(peak(running.pid()));
            if let Some(status) = running.exited()? {
                break status;
            }
            ensure!(begin.elapsed() < LIMIT, "it goes on for ever");
            std::thread::sleep(Duration::from_millis(2));
        };
        let said = running.stderr();
        ensure!(status.success() && said.is_empty(), "{status}: {said}");
        ensure!(0 < memory && memory < MOST_MEMORY, "it took {memory} KiB");
        let text = running.stdout();
        let report = serde_json::from_str(&text).with_context(|| format!("read the report {text:?}"))?;
        Ok(Checked { code: status.code(), report, took: begin.elapsed() })
    }
}

/// The most memory that a process has had so far, in KiB; 0 if it has ended.
fn peak(pid: u32) -> u64 {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
