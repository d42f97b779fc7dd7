//! A node with its simulated kubelet, and the files that tell how that was started.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use apivip::model::types::Family;
use integration::audit::{self, audit};
use integration::check::Checked;
use integration::kubeconfig::{self, Kubeconfig, User};
use integration::lab::{Lab, LabOptions, addresses};
use integration::pki::{Authority, KeyFiles, ServerCertificate, Validity};
use integration::sim::kubelet::{Kubelet, Options};

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
        let proc = audit::proc(&self.lab)?;
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

    pub fn audit(&self, more: &[&str]) -> Result<Checked> {
        let own = self.arguments.iter().map(String::as_str);
        audit(&self.lab, &own.chain(more.iter().copied()).collect::<Vec<_>>())
    }
}
