//! Leases while apiservers are unplugged in turn: those of the controllers, and that of the node. All that hold one run on the
//! node and reach the API through its virtual IP.
//! In: who serves the virtual IP. Out: for each outage how old the node's lease became, and which leases were lost.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::NAME;
use super::arm::{Arm, Server};
use super::cluster::{self, Cluster, PATIENCE};
use super::controllers::NAMES;
use crate::control_plane::ControlPlane;
use crate::fault::Fault;
use crate::lab::Lab;
use crate::real::Client;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What an outage did.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    /// Connections through the virtual IP that led to the apiserver when it was unplugged.
    pub flows: usize,
    /// The greatest age of the node's lease.
    pub oldest: Duration,
    /// Each age of it that was seen, and how long after the apiserver was unplugged.
    pub ages: Vec<(Duration, Duration)>,
    /// The controllers that lost their lease, and how long after that it was seen.
    pub lost: Vec<(&'static str, Duration)>,
    /// What those said that ended, and what apivip did.
    pub logs: String,
    /// Whether the API took the node for one that is not ready.
    pub not_ready: bool,
}

/// A cluster whose controllers and kubelet call the virtual IP.
#[derive(Debug)]
pub struct Leases<'lab> {
    lab: &'lab Lab,
    cluster: Cluster<'lab>,
    server: Server<'lab>,
}

impl<'lab> Leases<'lab> {
    /// Starts everything, and waits until each lease is held.
    pub fn start(lab: &'lab Lab, arm: Arm) -> Result<Self> {
        let mut plane = ControlPlane::self_published(lab)?;
        let server = Server::start(lab, &mut plane, arm)?;
        let cluster = Cluster::behind_the_vip(lab, plane)?;
        let mut made = Self { lab, cluster, server };
        for path in NAMES.map(controller_lease) {
            made.cluster.wait("a leader", &path, |lease| holder(lease).is_some())?;
        }
        made.cluster.wait("the node's lease", &node_lease(), |lease| age(lease).is_ok())?;
        Ok(made)
    }

    /// Unplugs apiserver `i` for so long, and waits afterwards until it is back among the endpoints.
    pub fn unplug(&mut self, i: u8, lasting: Duration) -> Result<Outage> {
        // Another one tells what happens.
        let others = i % self.lab.options().apiservers + 1;
        let client = self.cluster.plane.real()?.client(others);
        let before = holders(&client)?;
        let flows = self.flows(self.cluster.plane.apiservers(i)[0])?;
        let inflicted = Fault::Unplugged.inflict(&mut self.cluster.plane, &[i])?;
        let begin = Instant::now();
        let mut outage = Outage { flows, ..Outage::default() };
        self.look(&client, begin, lasting, &mut outage)?;
        inflicted.heal(&mut self.cluster.plane)?;
        let all: Vec<_> =
            (1..=self.lab.options().apiservers).map(|i| self.cluster.plane.apiservers(i)[0]).collect();
        let deadline = Instant::now() + PATIENCE;
        while self.cluster.plane.real()?.wait_for_endpoints(&all, Duration::ZERO).is_err() {
            ensure!(Instant::now() < deadline, "apiserver {i} is not published any more");
            self.look(&client, begin, PAUSE, &mut outage)?;
        }
        for ((name, before), (_, now)) in before.into_iter().zip(holders(&client)?) {
            if before != now {
                outage.lose(name, begin);
            }
        }
        Ok(outage)
    }

    /// How many established connections of the node lead through the virtual IP to this apiserver.
    fn flows(&self, apiserver: SocketAddr) -> Result<usize> {
        let (vip, apiserver) = (self.lab.vips()[0].to_string(), apiserver.ip().to_string());
        let filter =
            ["-L", "-p", "tcp", "--state", "ESTABLISHED", "--orig-dst", &vip, "--reply-src", &apiserver];
        Ok(self.lab.node().run("conntrack", &filter)?.lines().count())
    }

    fn look(
        &mut self,
        client: &Client<'_>,
        begin: Instant,
        lasting: Duration,
        outage: &mut Outage,
    ) -> Result<()> {
        let end = Instant::now() + lasting;
        while Instant::now() < end {
            let age = age(&client.get(&node_lease())?)?;
            outage.oldest = outage.oldest.max(age);
            outage.ages.push((begin.elapsed(), age));
            let node = client.get(&format!("/api/v1/nodes/{NAME}"))?;
            outage.not_ready |= cluster::condition(&node, "Ready") != Some("True");
            for (name, log) in self.cluster.controllers.revive()? {
                let (now, server) = (OffsetDateTime::now_utc(), self.server.tail());
                outage.logs += &format!("{name} had ended at {now}:\n{log}\n{server}\n");
                outage.lose(name, begin);
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Outage {
    fn lose(&mut self, name: &'static str, begin: Instant) {
        if !self.lost.iter().any(|(lost, _)| *lost == name) {
            self.lost.push((name, begin.elapsed()));
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost: Vec<&str> = self.lost.iter().map(|(name, _)| *name).collect();
        let lost = if lost.is_empty() { "none".to_owned() } else { lost.join(", ") };
        let ready = if self.not_ready { "no" } else { "yes" };
        write!(f, "{} | {:.1} s | {ready} | {lost}", self.flows, self.oldest.as_secs_f64())
    }
}

fn controller_lease(name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}")
}

fn node_lease() -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NAME}")
}

fn holder(lease: &Value) -> Option<String> {
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

fn holders(client: &Client<'_>) -> Result<Vec<(&'static str, Option<String>)>> {
    NAMES.iter().map(|name| Ok((*name, holder(&client.get(&controller_lease(name))?)))).collect()
}

/// How long ago it was renewed.
fn age(lease: &Value) -> Result<Duration> {
    let renewed = lease["spec"]["renewTime"].as_str().context("the lease was never renewed")?;
    let renewed = OffsetDateTime::parse(renewed, &Rfc3339).with_context(|| format!("parse {renewed}"))?;
    Ok((OffsetDateTime::now_utc() - renewed).try_into().unwrap_or_default())
}
