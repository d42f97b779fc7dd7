//! A real kube-proxy on the lab's node. It needs no kubelet.
//! In: its mode and a kubeconfig. Out: a running kube-proxy whose rules are there; it can be ended and its rules removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::NAME;
use crate::command;
use crate::control_plane::ControlPlane;
use crate::lab::{Lab, addresses};
use crate::process::Spawned;
use crate::real::{Client, cached};

/// Longest until its rules are there. It takes two seconds, and longer with thousands of Services.
const LIMIT: Duration = Duration::from_secs(180);

/// How it programs the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With nftables.
    Nftables,
    /// With iptables.
    Iptables,
}

/// A running kube-proxy. Dropping it kills it, and leaves its rules.
#[derive(Debug)]
pub struct KubeProxy<'lab> {
    lab: &'lab Lab,
    mode: Mode,
    configuration: PathBuf,
    process: Spawned,
}

/// Makes the node known to the API where no kubelet does.
pub fn register_node(client: &Client<'_>, lab: &Lab) -> Result<()> {
    let address = addresses::node(lab.families()[0]);
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    });
    client.post("/api/v1/nodes", &node).map(drop)
}

/// A kubeconfig of kube-proxy that calls apiserver 1.
pub fn kubeconfig(plane: &mut ControlPlane<'_>) -> Result<PathBuf> {
    let real = plane.real()?;
    real.kubeconfig_of("system:kube-proxy", &[], real.address(1))
}

impl<'lab> KubeProxy<'lab> {
    /// Starts it, and waits until its rules for the API's virtual IP are there.
    pub fn start(lab: &'lab Lab, mode: Mode, kubeconfig: &Path) -> Result<Self> {
        let configuration = lab.dir().join("kube-proxy.yaml");
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
             kind: KubeProxyConfiguration\n\
             clientConnection: {{kubeconfig: {}}}\n\
             clusterCIDR: {}\n\
             conntrack: {{maxPerCore: 0}}\n\
             hostnameOverride: {NAME}\n\
             mode: {}\n",
            kubeconfig.display(),
            addresses::pod_range(lab.families()[0]),
            mode.name(),
        );
        fs::write(&configuration, text).context("write the configuration of kube-proxy")?;
        let mut command = lab.node().command(cached("kube-proxy")?);
        command.arg("--config").arg(&configuration);
        let process = Spawned::start("kube-proxy", command, lab.dir())?;
        let mut made = Self { lab, mode, configuration, process };
        made.process.wait_until("rules for the virtual IP", LIMIT, |_| Ok(mode.serves(lab).then_some(())))?;
        Ok(made)
    }

    /// Kills it. Its rules stay.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Kills it and removes its rules.
    pub fn remove(mut self) -> Result<()> {
        self.kill()?;
        let mut cleanup = self.lab.node().command(cached("kube-proxy")?);
        cleanup.arg("--cleanup").arg("--config").arg(&self.configuration);
        command::run(cleanup, "").context("remove the rules of kube-proxy")?;
        ensure!(!self.mode.serves(self.lab), "kube-proxy has left rules");
        Ok(())
    }
}

impl Mode {
    /// As its configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// Whether there are rules of it that lead the virtual IP to somebody.
    fn serves(self, lab: &Lab) -> bool {
        let vip = lab.vips()[0];
        let rules = match self {
            Self::Nftables => lab.node().nft_text("table ip kube-proxy"),
            Self::Iptables => lab.node().run("iptables-save", &["-t", "nat"]),
        };
        let wanted = match self {
            Self::Nftables => format!("{vip} . tcp . 443 : goto service-"),
            Self::Iptables => format!("-d {vip}/32 -p tcp"),
        };
        rules.is_ok_and(|rules| rules.contains(&wanted))
    }
}
