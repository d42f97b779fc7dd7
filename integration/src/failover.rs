//! A failover as clients see it: many of them in a Pod and on the node, a fault, and the verdict.
//! In: a control plane, a daemon's options, a [`Mix`]. Out: an [`Outcome`] that says which connections failed and which clients were
//! notified.

mod outcome;
pub mod trial;
pub mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use apivip::model::types::Family;

use outcome::Moments;
pub use outcome::{Notified, Outcome};

use crate::clients::{Clients, Mix};
use crate::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use crate::daemon::{Daemon, DaemonOptions};
use crate::fault::{Fault, Inflicted};
use crate::lab::{Lab, addresses};
use crate::netns::Namespace;
use crate::sim::clients::timeline::monotonic_us;
use crate::sim::objects;

/// A second crowd must not read what the first one wrote.
static CROWDS: AtomicU32 = AtomicU32::new(0);

/// So often conntrack is listed where it does not know a client.
const LISTS: u32 = 5;

/// By then the daemon has probed every API server, twice where it needs that.
const PROBED: Duration = Duration::from_millis(1500);

/// A control plane, and the daemon between it and the clients.
#[derive(Debug)]
pub struct Failover<'lab> {
    /// The lab.
    pub lab: &'lab Lab,
    /// The API servers.
    pub plane: ControlPlane<'lab>,
    /// The daemon under test.
    pub daemon: Daemon,
}

/// Clients of the virtual IP, and to which API server the node redirects each of them.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<(String, Clients)>,
    redirected_to: BTreeMap<SocketAddr, SocketAddr>,
    moments: Moments,
}

impl<'lab> Failover<'lab> {
    /// Starts a control plane that publishes these API servers for the Service with nothing but its port `https`, and
    /// a daemon with these arguments.
    pub fn start(lab: &'lab Lab, variant: Variant, published: &[u8], arguments: &[&str]) -> Result<Self> {
        Self::start_with(lab, variant, published, |options| {
            options.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        })
    }

    /// The same, with a daemon that is started in another way.
    pub fn start_with(
        lab: &'lab Lab,
        variant: Variant,
        published: &[u8],
        prepare: impl FnOnce(&mut DaemonOptions),
    ) -> Result<Self> {
        let mut plane = ControlPlane::start(lab, variant)?;
        if plane.is_simulated() {
            let ports = [objects::Port::new("https", SERVICE_PORT)];
            let fleet = plane.fleet()?;
            fleet.put_service(&lab.vips(), &ports, false)?;
            plane.serve_half_closed()?;
        } else {
            plane.put_service(&lab.vips(), false)?;
        }
        plane.publish_apiservers(published)?;
        let mut options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
        prepare(&mut options);
        let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
        plane.wait_until_served(&mut daemon, published)?;
        thread::sleep(PROBED);
        Ok(Self { lab, plane, daemon })
    }

    /// Starts clients of every family's virtual IP in each of these namespaces.
    pub fn crowd(&self, from: &[&Namespace], mix: &Mix) -> Result<Crowd> {
        let targets: Vec<SocketAddr> = expected(self.lab, &[]).into_iter().map(|(vip, _)| vip).collect();
        let from: Vec<_> = from.iter().map(|namespace| (*namespace, targets.clone())).collect();
        self.crowd_at(&from, mix)
    }

    /// Starts clients of other addresses, in turn.
    pub fn crowd_at(&self, from: &[(&Namespace, Vec<SocketAddr>)], mix: &Mix) -> Result<Crowd> {
        Crowd::start(self.lab, &self.plane, from, mix)
    }

    /// Starts clients of every kind in Pod 1 and on the node.
    pub fn everybody(&self, mix: &Mix) -> Result<Crowd> {
        self.crowd(&[self.lab.pod(1), self.lab.node()], mix)
    }

    /// Lets it happen, and notes when. A program that does it takes a while to start.
    pub fn inflict(&mut self, crowd: &mut Crowd, fault: Fault, numbers: &[u8]) -> Result<Inflicted> {
        crowd.inflict(&mut self.plane, fault, numbers)
    }

    /// Undoes it. Simulated API servers that start again serve clients that have closed their half, as before.
    pub fn heal(&mut self, inflicted: Inflicted) -> Result<()> {
        inflicted.heal(&mut self.plane)?;
        self.plane.serve_half_closed()
    }

    /// The number of the API server that serves the daemon's watch.
    pub fn watched(&mut self) -> Result<u8> {
        let synced = |status: &serde_json::Value| status["api"]["state"] == "synced";
        let status = self.daemon.wait_for_status("the API in sync", Duration::from_secs(30), synced)?;
        let address = status["api"]["address"].as_str().context("no address in the status")?;
        let address: SocketAddr = address.parse().context("parse the address of the watched apiserver")?;
        let number =
            (1..=self.lab.options().apiservers).find(|i| self.plane.apiservers(*i).contains(&address));
        number.with_context(|| format!("{address} is no apiserver"))
    }

    /// Fails unless exactly these API servers serve every virtual IP now.
    pub fn expect_backends(&self, what: &str, numbers: &[u8]) -> Result<()> {
        let status = self.daemon.status()?;
        for (vip, mut backends) in expected(self.lab, numbers) {
            backends.sort();
            let found = crate::daemon::backends_of(&status, vip);
            ensure!(found == backends, "{what}: {vip} is served by {found:?} instead of {backends:?}");
        }
        Ok(())
    }

    /// Waits until exactly these API servers serve every virtual IP.
    pub fn wait_for_backends(&mut self, numbers: &[u8]) -> Result<()> {
        self.plane.wait_until_served(&mut self.daemon, numbers)
    }
}

impl Crowd {
    /// Starts clients of these addresses in these namespaces, and looks to which API server the node redirects each.
    pub fn start(
        lab: &Lab,
        plane: &ControlPlane<'_>,
        from: &[(&Namespace, Vec<SocketAddr>)],
        mix: &Mix,
    ) -> Result<Self> {
        let mut clients = Vec::new();
        for (namespace, targets) in from {
            let number = CROWDS.fetch_add(1, Ordering::Relaxed);
            let name = format!("clients-{number}-{}", namespace.name());
            let started = Clients::start(namespace, lab.dir(), &name, plane, targets, mix)?;
            clients.push((namespace.name().to_owned(), started));
        }
        let kept: BTreeSet<SocketAddr> =
            clients.iter().flat_map(|(_, started)| started.kept()).copied().collect();
        Ok(Self { clients, redirected_to: translations(lab, &kept)?, moments: Moments::now() })
    }

    /// Lets it happen, and notes when. A program that does it takes a while to start.
    pub fn inflict(
        &mut self,
        plane: &mut ControlPlane<'_>,
        fault: Fault,
        numbers: &[u8],
    ) -> Result<Inflicted> {
        self.moments = Moments::now();
        let inflicted = fault.inflict(plane, numbers);
        self.moments.complete_us = monotonic_us();
        inflicted
    }

    /// Where conntrack does not show it, because the forwarder carries the connections, the test says it: all that are kept
    /// are redirected to this backend.
    #[must_use]
    pub fn redirected_to(mut self, backend: SocketAddr) -> Self {
        let kept = self.clients.iter().flat_map(|(_, clients)| clients.kept());
        self.redirected_to = kept.map(|client| (*client, backend)).collect();
        self
    }

    /// These clients with those.
    #[must_use]
    pub fn joined(mut self, other: Self) -> Self {
        self.clients.extend(other.clients);
        self.redirected_to.extend(other.redirected_to);
        self
    }

    /// Clients that the node knows by the address `outer`, because something hides them behind it, are known here by
    /// `inner`; their ports are the same.
    pub fn hidden(&mut self, inner: IpAddr, outer: IpAddr) {
        let redirected_to = std::mem::take(&mut self.redirected_to).into_iter();
        let named = |client: SocketAddr| match client.ip() == outer {
            true => SocketAddr::new(inner, client.port()),
            false => client,
        };
        self.redirected_to = redirected_to.map(|(client, backend)| (named(client), backend)).collect();
    }

    /// Waits until every long-lived connection to one of these addresses has ended at its client.
    pub fn wait_notified(&self, failed_servers: &[IpAddr], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let concerned =
            self.redirected_to.iter().filter(|(_, backend)| failed_servers.contains(&backend.ip()));
        let kept: BTreeSet<&SocketAddr> =
            self.clients.iter().flat_map(|(_, clients)| clients.kept()).collect();
        let concerned: Vec<SocketAddr> =
            concerned.map(|(client, _)| *client).filter(|c| kept.contains(c)).collect();
        loop {
            let mut left = concerned.clone();
            for (_, clients) in &self.clients {
                let ended = clients.ended()?;
                let ended: BTreeSet<SocketAddr> =
                    ended.iter().filter_map(|connection| connection.local).collect();
                left.retain(|client| !ended.contains(client));
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let shown = &left[..left.len().min(10)];
                bail!(
                    "{} of {} clients of {failed_servers:?} were not notified within {limit:?}, for instance {shown:?}",
                    left.len(),
                    concerned.len()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the clients and returns what they saw.
    pub fn finish(mut self) -> Result<Outcome> {
        for (_, clients) in &mut self.clients {
            clients.stop()?;
        }
        let finished = self.clients.into_iter().map(|(name, clients)| Ok((name, clients.finish()?)));
        Ok(Outcome::new(finished.collect::<Result<_>>()?, self.redirected_to, self.moments))
    }
}

/// Every virtual IP with its port, and the backends that these API servers are for it.
fn expected(lab: &Lab, numbers: &[u8]) -> Vec<(SocketAddr, Vec<SocketAddr>)> {
    let of = |family: Family| {
        let backend = |i: &u8| SocketAddr::new(lab.apiserver_address(*i, family), crate::real::PORT);
        (SocketAddr::new(addresses::vip(family), SERVICE_PORT), numbers.iter().map(backend).collect())
    };
    lab.families().iter().copied().map(of).collect()
}

/// The backend to which the node redirects each connection to a virtual IP, by the client's address. A list that the kernel gives
/// while other namespaces change the same table may lack entries: another is taken while one of `kept` is missing, which
/// stays so where something hides it.
fn translations(lab: &Lab, kept: &BTreeSet<SocketAddr>) -> Result<BTreeMap<SocketAddr, SocketAddr>> {
    let mut found = BTreeMap::new();
    for _ in 0..LISTS {
        for family in lab.families() {
            let name = if *family == Family::V4 { "ipv4" } else { "ipv6" };
            let vip = addresses::vip(*family).to_string();
            let arguments = ["-L", "-f", name, "-p", "tcp", "--orig-dst", &vip];
            let listed = lab.node().run("conntrack", &arguments)?;
            found.extend(listed.lines().filter_map(translation));
        }
        if kept.iter().all(|client| found.contains_key(client)) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(found)
}

/// Reads `tcp 6 299 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… …`.
fn translation(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let all = |key: &str| line.split(' ').filter_map(|word| word.strip_prefix(key)).collect::<Vec<_>>();
    let (sources, ports) = (all("src="), all("sport="));
    let end = |i: usize| Some(SocketAddr::new(sources.get(i)?.parse().ok()?, ports.get(i)?.parse().ok()?));
    Some((end(0)?, end(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conntrack_is_read() {
        let line = "tcp      6 431999 ESTABLISHED src=10.244.0.11 dst=10.96.0.1 sport=40000 dport=443 \
                    src=192.0.2.12 dst=10.244.0.11 sport=6443 dport=40000 [ASSURED] mark=0 use=1";
        let expected = ("10.244.0.11:40000".parse().unwrap(), "192.0.2.12:6443".parse().unwrap());
        assert_eq!(translation(line), Some(expected));
        assert_eq!(translation("conntrack v1.4.7"), None);
    }
}
