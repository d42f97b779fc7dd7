//! A node that boots before the API can be read: a control plane whose apiservers answer probes and clients, and a
//! daemon whose token they do not accept until the test says so.
//! In: a lab. Out: a [`ColdBoot`], whose daemon is told of apiservers by seeds, by saved state, or not at all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use crate::daemon::{Daemon, DaemonOptions, backends_of};
use crate::kubeconfig::{Authority, Kubeconfig, User};
use crate::lab::Lab;

/// Longest that a daemon may take for a step. It usually takes a tenth of a second, and a name 5 s to be asked again.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The node, its control plane, and the files that a daemon is given.
#[derive(Debug)]
pub struct ColdBoot<'lab> {
    lab: &'lab Lab,
    /// The control plane.
    pub plane: ControlPlane<'lab>,
    token: PathBuf,
}

impl<'lab> ColdBoot<'lab> {
    /// Starts the control plane. Nothing is published unless `serving`, and the daemon's token is a wrong one.
    pub fn start(lab: &'lab Lab, variant: Variant, serving: bool) -> Result<Self> {
        let plane =
            if serving { ControlPlane::serving(lab, variant) } else { ControlPlane::start(lab, variant) }?;
        let made = Self { lab, plane, token: lab.dir().join("token") };
        made.may_read(false)?;
        Ok(made)
    }

    /// Whether apiservers accept the daemon's token from now on.
    pub fn may_read(&self, yes: bool) -> Result<()> {
        let token = if yes { self.plane.token() } else { "not-the-token" };
        std::fs::write(&self.token, token).with_context(|| format!("write {}", self.token.display()))
    }

    /// The daemon's token file.
    pub fn token(&self) -> &std::path::Path {
        &self.token
    }

    /// The virtual IP and port of the API, IPv4.
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.lab.vips()[0], SERVICE_PORT)
    }

    /// Options of a daemon whose kubeconfig names the virtual IP, with these arguments.
    pub fn options(&self, arguments: &[&str]) -> Result<DaemonOptions> {
        let path = self.lab.dir().join("kubeconfig-vip.yaml");
        let authority = Authority::File(self.plane.authority().to_owned());
        Kubeconfig::new(format!("https://{}", self.vip()), authority, User::TokenFile(self.token.clone()))
            .write(&path)?;
        let options = DaemonOptions::kubeconfig(path);
        // The self-test dials the virtual IP, and here nothing may.
        let arguments = arguments.iter().chain(&["--selftest-interval=off"]);
        Ok(arguments.fold(options, |options, argument| options.arg(*argument)))
    }

    /// Starts a daemon and does not wait.
    pub fn spawn(&self, options: &DaemonOptions) -> Result<Daemon> {
        Daemon::spawn(self.lab.node(), self.lab.dir(), options)
    }

    /// Takes everything from the kernel that a reboot would.
    pub fn forget_rules(&self) -> Result<()> {
        let node = self.lab.node();
        if !node.run("nft", &["list", "tables"])?.contains("table inet apivip") {
            return Ok(());
        }
        // Not after an `add`: that would name no flags, and the kernel takes no flags from a table that has had an owner.
        node.nft_load("delete table inet apivip\n")
    }

    /// Counts the node's own connections to the virtual IP from now on.
    pub fn watch_vip(&self) -> Result<()> {
        self.lab.node().nft_load(&format!(
            "table inet watch {{
                counter dialled {{ }}
                chain output {{
                    type filter hook output priority -400;
                    ip daddr {} tcp flags & (syn | ack) == syn counter name dialled
                }}
            }}\n",
            self.vip().ip()
        ))
    }

    /// Fails if the node itself has dialled the virtual IP since [`Self::watch_vip`].
    pub fn expect_vip_undialled(&self) -> Result<()> {
        let counter = self.lab.node().nft_text("counter inet watch dialled")?;
        ensure!(counter.contains("packets 0 "), "the virtual IP was dialled: {counter}");
        Ok(())
    }

    /// Fails unless the pod and the node reach an apiserver through every virtual IP.
    pub fn expect_served(&self, what: &str) -> Result<()> {
        for vip in self.lab.vips() {
            for from in [self.lab.pod(1), self.lab.node()] {
                let answer = self.plane.fetch(from, vip).with_context(|| format!("{what}: {vip}"))?;
                ensure!(answer == "ok", "{what}: {vip} answers {answer:?} to {}", from.name());
            }
        }
        Ok(())
    }
}

/// What a status says of one apiserver of a virtual IP.
pub fn backend(status: &Value, vip: SocketAddr, address: SocketAddr) -> Option<Value> {
    let frontends = status["frontends"].as_array()?;
    let frontend = frontends.iter().find(|frontend| frontend["vip"] == vip.to_string())?;
    let backends = frontend["backends"].as_array()?;
    backends.iter().find(|backend| backend["address"] == address.to_string()).cloned()
}

/// Whether exactly these apiservers share new connections to a virtual IP, each learnt from `source`.
pub fn serves(status: &Value, vip: SocketAddr, backends: &[SocketAddr], source: &str) -> bool {
    let known = |address: &SocketAddr| {
        let found = backend(status, vip, *address);
        found.is_some_and(|found| found["source"] == source && found["source_age_seconds"].is_u64())
    };
    backends_of(status, vip) == backends && backends.iter().all(known)
}
