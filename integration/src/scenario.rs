//! A control plane, a daemon on the lab's node, and clients of the virtual IP: what most network scenarios are made of.
//! In: a lab and a [`Variant`]. Out: whether clients get through, and which addresses the apiservers saw.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use serde_json::Value;

use crate::command;
use crate::control_plane::{ControlPlane, Variant};
use crate::daemon::{Daemon, DaemonOptions};
use crate::lab::{Lab, addresses};
use crate::netns::Namespace;

/// Requests of one client. A wrong share of three backends goes unnoticed once in 700 times, and never twice.
const REQUESTS: usize = 6;

/// A running control plane whose apiservers are published, and the options of a daemon that reads it.
#[derive(Debug)]
pub struct Scenario<'lab> {
    lab: &'lab Lab,
    /// The control plane.
    pub plane: ControlPlane<'lab>,
    /// How [`Scenario::daemon`] starts it.
    pub options: DaemonOptions,
}

impl<'lab> Scenario<'lab> {
    /// Starts the control plane and publishes the virtual IPs of the lab's families and these apiservers.
    pub fn start(lab: &'lab Lab, variant: Variant, published: &[u8]) -> Result<Self> {
        let plane = ControlPlane::start(lab, variant)?;
        let vips: Vec<IpAddr> = lab.families().iter().map(|family| addresses::vip(*family)).collect();
        plane.put_service(&vips, false)?;
        plane.publish_apiservers(published)?;
        let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
        Ok(Self { lab, plane, options })
    }

    /// Starts a daemon and waits until it has programmed the kernel.
    pub fn daemon(&self) -> Result<Daemon> {
        Daemon::start(self.lab.node(), self.lab.dir(), &self.options)
    }

    /// Runs `apivip cleanup` on the node and returns what it says.
    pub fn cleanup(&self, daemon: &Daemon) -> Result<String> {
        command::run(daemon.cleanup_command(self.lab.node()), "")
    }

    /// Asks the virtual IP from `from` several times. Returns the client addresses that apiservers saw.
    pub fn reach(&self, from: &Namespace, family: Family) -> Result<BTreeSet<IpAddr>> {
        let before = self.logged()?;
        for _ in 0..REQUESTS {
            let answer = self.plane.fetch(from, addresses::vip(family))?;
            ensure!(answer == "ok", "{} got the answer {answer:?}", from.name());
        }
        let mut seen = Vec::new();
        for (now, before) in self.logged()?.iter().zip(&before) {
            seen.extend_from_slice(&now[before.len()..]);
        }
        ensure!(seen.len() == REQUESTS, "{} of {REQUESTS} requests reached apiservers: {seen:?}", seen.len());
        Ok(seen.into_iter().collect())
    }

    /// Fails unless apiservers see `expected`, and nothing else, when `from` asks the virtual IP.
    pub fn expect(&self, what: &str, from: &Namespace, expected: IpAddr) -> Result<()> {
        let seen = self.reach(from, Family::of(expected)).with_context(|| self.state(what))?;
        ensure!(seen == [expected].into(), "{}\nseen as {seen:?} instead of {expected}", self.state(what));
        Ok(())
    }

    /// Fails unless pod 1 and the node reach apiservers in every family and are seen as themselves.
    pub fn expect_everybody(&self, what: &str) -> Result<()> {
        for family in self.lab.families().iter().copied() {
            self.expect(&format!("{what}, from the pod"), self.lab.pod(1), addresses::pod(1, family))?;
            self.expect(&format!("{what}, from the node"), self.lab.node(), addresses::node(family))?;
        }
        Ok(())
    }

    /// The node's rules, to be shown with a failure.
    fn state(&self, what: &str) -> String {
        let rules = self.lab.node().nft_text("ruleset").unwrap_or_else(|error| format!("{error:#}"));
        format!("{what}; the node's rules are\n{rules}")
    }

    fn logged(&self) -> Result<Vec<Vec<IpAddr>>> {
        (1..=self.lab.options().apiservers).map(|i| self.plane.source_addresses(i)).collect()
    }
}

/// How many transactions the daemon has committed, from its metrics.
pub fn commits(daemon: &Daemon) -> Result<u64> {
    let metrics = daemon.metrics()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("apivip_commits_total{outcome=\"ok\"} "));
    line.with_context(|| format!("no commits in\n{metrics}"))?.parse().context("parse the commits")
}

/// Whether every virtual IP of a status has the guard, or none has.
pub fn guarded(status: &Value, wanted: bool) -> bool {
    let frontends = status["frontends"].as_array();
    frontends.is_some_and(|all| {
        !all.is_empty() && all.iter().all(|frontend| frontend["local_route_allowed"] == wanted)
    })
}
