//! Who serves the virtual IP on a node, apivip or kube-proxy, so that both can be put into the same place.
//! In: a control plane that publishes itself. Out: a running program.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::kube_proxy::{self, KubeProxy, Mode};
use crate::control_plane::ControlPlane;
use crate::daemon::{Daemon, DaemonOptions};
use crate::lab::Lab;
use crate::real::PORT;

/// Until the daemon watches an apiserver. It takes a second.
const SYNCED: Duration = Duration::from_secs(60);

/// Who serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// apivip, which has all apiservers as seeds.
    Apivip,
    /// kube-proxy in this mode, which calls apiserver 1.
    KubeProxy(Mode),
}

/// It, running. Dropping it ends it.
#[derive(Debug)]
pub enum Server<'lab> {
    /// The daemon.
    Apivip(Daemon),
    /// kube-proxy.
    KubeProxy(KubeProxy<'lab>),
}

impl<'lab> Server<'lab> {
    /// Starts it on the node, which it makes known to the API.
    pub fn start(lab: &'lab Lab, plane: &mut ControlPlane<'lab>, arm: Arm) -> Result<Self> {
        kube_proxy::register_node(&plane.real()?.client(1), lab)?;
        match arm {
            Arm::Apivip => {
                let mut options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
                for i in 1..=lab.options().apiservers {
                    options = options.arg(format!("--seed={}:{PORT}", lab.apiserver_addresses(i)[0]));
                }
                Daemon::start(lab.node(), lab.dir(), &options).map(Self::Apivip)
            }
            Arm::KubeProxy(mode) => {
                let kubeconfig = kube_proxy::kubeconfig(plane)?;
                KubeProxy::start(lab, mode, &kubeconfig).map(Self::KubeProxy)
            }
        }
    }

    /// The number of the apiserver that it watches.
    pub fn watched(&mut self, plane: &ControlPlane<'_>) -> Result<u8> {
        let Self::Apivip(daemon) = self else { return Ok(1) };
        let synced = |status: &Value| status["api"]["state"] == "synced";
        let status = daemon.wait_for_status("the API in sync", SYNCED, synced)?;
        let address = status["api"]["address"].as_str().context("no address in the status")?;
        let address: SocketAddr = address.parse().context("parse the address of the watched apiserver")?;
        let number = (1..=plane.lab().options().apiservers).find(|i| plane.apiservers(*i).contains(&address));
        number.with_context(|| format!("{address} is no apiserver"))
    }

    /// What apivip logged last.
    pub fn tail(&self) -> String {
        match self {
            Self::Apivip(daemon) => daemon.tail(),
            Self::KubeProxy(_) => String::new(),
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apivip => f.write_str("apivip"),
            Self::KubeProxy(mode) => write!(f, "kube-proxy, {}", mode.name()),
        }
    }
}
