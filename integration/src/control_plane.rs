//! One face for the simulated and the real control plane, so that a scenario runs against each.
//!
//! In: a lab and a [`Variant`]. Out: a [`ControlPlane`]: what it publishes is the scenario's choice, and what its
//! apiservers saw can be asked. Nothing is published, and the simulation has no Service, until the scenario says so.

mod connections;
mod publish;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;
use crate::kubeconfig::{self, Kubeconfig, User};
use crate::lab::{Lab, addresses};
use crate::netns::Namespace;
use crate::pki::{Authority, KeyFiles, SERVER_NAME, Validity};
use crate::real::{APIVIP_TOKEN, EndpointsBy, PORT, RealControlPlane, RealOptions};
use crate::sim::access_log::What;
use crate::sim::fleet::{Fleet, TOKEN};
use crate::wire::Server;

/// The port that clients dial.
pub const SERVICE_PORT: u16 = 443;

/// How the requests of [`ControlPlane::fetch`] are told from the daemon's.
const USER_AGENT: &str = "lab-client";

/// Longest until all real apiservers have published themselves. It takes up to 10 s, the interval of their reconciler.
const PUBLISHED: Duration = Duration::from_secs(60);

/// The kinds of control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Apiservers that do as they are told, also what no real one does.
    Simulated,
    /// etcd and kube-apiservers.
    Real,
}

/// A running control plane of one kind. Dropping it ends all of it.
#[derive(Debug)]
pub struct ControlPlane<'lab> {
    lab: &'lab Lab,
    plane: Plane<'lab>,
}

#[derive(Debug)]
enum Plane<'lab> {
    Simulated { fleet: Fleet, authority: Authority },
    Real(RealControlPlane<'lab>),
}

impl<'lab> ControlPlane<'lab> {
    /// Starts every apiserver of the lab and waits until they answer.
    pub fn start(lab: &'lab Lab, variant: Variant) -> Result<Self> {
        let plane = match variant {
            Variant::Simulated => {
                let authority = Authority::new(lab.dir(), "ca")?;
                Plane::Simulated { fleet: Fleet::start(lab, &authority)?, authority }
            }
            Variant::Real => {
                let options = RealOptions { endpoints: EndpointsBy::Test, ..RealOptions::default() };
                Plane::Real(RealControlPlane::start(lab, options)?)
            }
        };
        Ok(Self { lab, plane })
    }

    /// Starts real apiservers that publish themselves, as those of a cluster do.
    pub fn self_published(lab: &'lab Lab) -> Result<Self> {
        Self::published_with(lab, RealOptions::default())
    }

    /// The same, of apiservers that serve on for a while when they are stopped.
    pub fn self_published_draining(lab: &'lab Lab) -> Result<Self> {
        Self::published_with(lab, RealOptions { drains: true, ..RealOptions::default() })
    }

    fn published_with(lab: &'lab Lab, options: RealOptions) -> Result<Self> {
        let real = RealControlPlane::start(lab, options)?;
        let mut made = Self { lab, plane: Plane::Real(real) };
        // One after the other publishes itself, and whoever starts last knows of all.
        let all: Vec<_> = (1..=lab.options().apiservers).map(|i| made.apiservers(i)[0]).collect();
        made.real()?.wait_for_endpoints(&all, PUBLISHED)?;
        Ok(made)
    }

    /// Writes a kubeconfig that names apiserver 1, and returns its path.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig_naming(SocketAddr::new(self.lab.apiserver_addresses(1)[0], PORT))
    }

    /// Writes a kubeconfig that names this server, and returns its path.
    pub fn kubeconfig_naming(&self, server: SocketAddr) -> Result<PathBuf> {
        let name = format!("kubeconfig-{}-{}.yaml", server.ip(), server.port());
        let path = self.lab.dir().join(name.replace(':', "_"));
        let authority = kubeconfig::Authority::File(self.authority().to_owned());
        let user = User::Token(self.token().to_owned());
        Kubeconfig::new(format!("https://{server}"), authority, user).write(&path)?;
        Ok(path)
    }

    /// Where apiserver `i` listens, one address per family, IPv4 first.
    pub fn apiservers(&self, i: u8) -> Vec<SocketAddr> {
        self.lab.apiserver_addresses(i).into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect()
    }

    /// The certificate that verifies every apiserver.
    pub fn authority(&self) -> &Path {
        match &self.plane {
            Plane::Simulated { authority, .. } => authority.certificate(),
            Plane::Real(real) => real.authority().certificate(),
        }
    }

    /// Makes a certificate that simulated apiservers let a client in by, if the lab's options have it so. The files are
    /// named after `name`.
    pub fn client_certificate(&self, name: &str) -> Result<KeyFiles> {
        let Plane::Simulated { authority, .. } = &self.plane else {
            bail!("a real apiserver judges who the client is, not only who has signed it");
        };
        authority.client(name, "apivip", &[], Validity::Now)
    }

    /// What the daemon and other clients show to be let in.
    pub fn token(&self) -> &'static str {
        match &self.plane {
            Plane::Simulated { .. } => TOKEN,
            Plane::Real(_) => APIVIP_TOKEN,
        }
    }

    /// Asks `/readyz` of the virtual IP from a namespace, over TLS, and returns the answer. The server must prove
    /// that it is an apiserver.
    pub fn fetch(&self, from: &Namespace, vip: IpAddr) -> Result<String> {
        self.fetch_at(from, SocketAddr::new(vip, SERVICE_PORT))
    }

    /// The same of any address and port.
    pub fn fetch_at(&self, from: &Namespace, at: SocketAddr) -> Result<String> {
        let host = addresses::before_port(at.ip());
        let mut curl = from.command("curl");
        curl.args(["-sS", "--fail", "-m", "5", "--noproxy", "*", "-A", USER_AGENT]);
        curl.args(["--resolve", &format!("{SERVER_NAME}:{}:{host}", at.port()), "--cacert"]);
        curl.arg(self.authority());
        curl.args(["-H", &format!("Authorization: Bearer {}", self.token())]);
        curl.arg(format!("https://{SERVER_NAME}:{}/readyz", at.port()));
        command::run(curl, "").with_context(|| format!("reach {at} from {}", from.name()))
    }

    /// Which client addresses apiserver `i` saw in requests of [`ControlPlane::fetch`], oldest first.
    pub fn source_addresses(&self, i: u8) -> Result<Vec<IpAddr>> {
        match &self.plane {
            Plane::Simulated { fleet, .. } => {
                let ours = |what: &What| matches!(what, What::Request { user_agent, .. } if user_agent == USER_AGENT);
                let log = fleet.access_log(i)?;
                Ok(log.iter().filter(|entry| ours(&entry.what)).map(|entry| entry.peer.ip()).collect())
            }
            Plane::Real(real) => {
                let log = real.audit_log(i)?;
                log.iter().filter(|event| event["userAgent"] == USER_AGENT).map(audited_source).collect()
            }
        }
    }

    /// The lab that it runs in.
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// Kills apiserver `i` with SIGKILL.
    pub fn kill(&mut self, i: u8) -> Result<()> {
        self.kill_all(&[i])
    }

    /// Kills these apiservers with SIGKILL, so that all are silent before the first one dies: it would else be given up under
    /// the eyes of the last.
    pub fn kill_all(&mut self, numbers: &[u8]) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.kill(numbers),
            Plane::Real(real) => real.kill_apiservers(numbers),
        }
    }

    /// Stops apiserver `i` with SIGTERM.
    pub fn stop(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.stop(i),
            Plane::Real(real) => real.stop_apiserver(i),
        }
    }

    /// Sends SIGTERM to apiserver `i`, which may live on while requests are under way.
    pub fn terminate(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.stop(i),
            Plane::Real(real) => real.terminate_apiserver(i),
        }
    }

    /// Whether the process of apiserver `i` has ended.
    pub fn has_ended(&mut self, i: u8) -> Result<bool> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.has_ended(i),
            Plane::Real(real) => real.apiserver_has_ended(i),
        }
    }

    /// Apiserver `i` for a client that looks at the wire, at its first address.
    pub fn wire(&self, i: u8) -> Server {
        let at = SocketAddr::new(self.lab.apiserver_addresses(i)[0], PORT);
        Server::new(at, self.authority(), self.token())
    }

    /// Stops apiserver `i` from running: its sockets stay open and nothing answers.
    pub fn pause(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.pause(i),
            Plane::Real(real) => real.pause_apiserver(i),
        }
    }

    /// Lets a paused apiserver run on.
    pub fn resume(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.resume(i),
            Plane::Real(real) => real.resume_apiserver(i),
        }
    }

    /// Starts apiserver `i` again after its end and waits until it is ready.
    pub fn start_again(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, authority } => fleet.restart(self.lab, authority, i),
            Plane::Real(real) => {
                real.start_apiserver(i)?;
                real.wait_ready(i)
            }
        }
    }

    /// Makes versions from before its start too old for apiserver `i`, which a real one has done with that.
    pub fn forget_history(&mut self, i: u8) -> Result<()> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => fleet.forget_history(i),
            Plane::Real(_) => Ok(()),
        }
    }

    /// Whether it is simulated.
    pub fn is_simulated(&self) -> bool {
        matches!(self.plane, Plane::Simulated { .. })
    }

    /// The simulated apiservers, for what only they can do.
    pub fn fleet(&mut self) -> Result<&mut Fleet> {
        match &mut self.plane {
            Plane::Simulated { fleet, .. } => Ok(fleet),
            Plane::Real(_) => bail!("this control plane is real"),
        }
    }

    /// The real control plane, for what only it can do.
    pub fn real(&mut self) -> Result<&mut RealControlPlane<'lab>> {
        match &mut self.plane {
            Plane::Real(real) => Ok(real),
            Plane::Simulated { .. } => bail!("this control plane is simulated"),
        }
    }
}

fn audited_source(event: &Value) -> Result<IpAddr> {
    let address = event["sourceIPs"][0].as_str().context("find the source of an audited request")?;
    address.parse().with_context(|| format!("parse the source of an audited request: {address}"))
}
