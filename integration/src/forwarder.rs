//! What the scenarios of the forwarder share: a daemon that serves the virtual IP itself, or may have to, on a
//! control plane with servers of long streams beside it.
//! In: a lab and the daemon's arguments. Out: a [`Stage`], and what the node shows of the daemon's work.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::control_plane::Variant;
use crate::daemon::{Daemon, DaemonOptions};
use crate::lab::{Lab, addresses};
use crate::netns::Namespace;
use crate::nftfault::NftFault;
use crate::scenario::Scenario;
use crate::sim::fleet::ECHO_SERVICE_PORT;
use crate::streams::{self, Servers};

/// Longest until the forwarder has taken over. The promise is one second.
pub const TAKEN_OVER: Duration = Duration::from_secs(10);

/// Where every daemon of these scenarios listens besides.
pub const LISTEN: [&str; 2] = ["127.0.0.1:7445", "[::1]:7445"];

/// A control plane with servers of long streams, and a daemon that nothing runs yet.
#[derive(Debug)]
pub struct Stage<'lab> {
    lab: &'lab Lab,
    /// The control plane, and how a daemon is started.
    pub scenario: Scenario<'lab>,
    /// The faults of the daemon's nf_tables.
    pub faults: NftFault,
    /// The servers of long streams.
    pub servers: Servers,
}

impl<'lab> Stage<'lab> {
    /// Starts everything but the daemon, whose mode is `mode`. Every apiserver is simulated and published, with its
    /// streams.
    pub fn start(lab: &'lab Lab, mode: &str) -> Result<Self> {
        Self::start_on(lab, Variant::Simulated, mode)
    }

    /// The same on another control plane.
    pub fn start_on(lab: &'lab Lab, variant: Variant, mode: &str) -> Result<Self> {
        let numbers: Vec<u8> = (1..=lab.options().apiservers).collect();
        let mut scenario = Scenario::start(lab, variant, &numbers)?;
        scenario.plane.serve_half_closed()?;
        let servers = Servers::start(lab)?;
        servers.publish(&scenario.plane, &numbers)?;
        let faults = NftFault::build(lab.dir())?;
        let listening = LISTEN.iter().filter(|address| {
            let v6 = address.starts_with('[');
            lab.families().contains(if v6 { &Family::V6 } else { &Family::V4 })
        });
        let options = faults.in_daemon(scenario.options).arg("--mode").arg(mode);
        scenario.options = listening.fold(options, |options, address| options.arg("--listen").arg(*address));
        Ok(Self { lab, scenario, faults, servers })
    }

    /// The daemon's options, to be changed.
    pub fn options(&mut self) -> &mut DaemonOptions {
        &mut self.scenario.options
    }

    /// Starts a daemon and waits until `dataplane` serves clients.
    pub fn daemon(&self, dataplane: &str) -> Result<Daemon> {
        let mut daemon = Daemon::spawn(self.lab.node(), self.lab.dir(), &self.scenario.options)?;
        daemon.wait_for_dataplane(dataplane, TAKEN_OVER)?;
        Ok(daemon)
    }

    /// Fails unless pod 1 and the node reach apiservers in every family, and apiservers see the node.
    pub fn expect_forwarded(&self, what: &str) -> Result<()> {
        for family in self.lab.families().iter().copied() {
            for from in [self.lab.pod(1), self.lab.node()] {
                self.scenario.expect(
                    &format!("{what}, from {}", from.name()),
                    from,
                    addresses::node(family),
                )?;
            }
        }
        Ok(())
    }

    /// Fails unless the node itself reaches apiservers at every address that the daemon listens on.
    pub fn expect_listening(&self) -> Result<()> {
        for address in self.listening()? {
            for _ in 0..4 {
                let answer = self.scenario.plane.fetch_at(self.lab.node(), address)?;
                ensure!(answer == "ok", "{address} gave the answer {answer:?}");
            }
        }
        Ok(())
    }

    /// Where the daemon listens besides the virtual IPs.
    pub fn listening(&self) -> Result<Vec<SocketAddr>> {
        let words = self.scenario.options.arguments.windows(2).filter(|two| two[0] == "--listen");
        words.map(|two| Ok(two[1].parse()?)).collect()
    }

    /// Makes the daemon program something: a port of the Service comes or goes that no client here uses.
    pub fn touch(&mut self, round: usize) -> Result<()> {
        let numbers: Vec<u8> = (1..=self.lab.options().apiservers).collect();
        if round.is_multiple_of(2) {
            return self.scenario.plane.put_service(&self.lab.vips(), false);
        }
        self.servers.publish(&self.scenario.plane, &numbers)
    }
}

/// The virtual IPs with the echo port.
pub fn echo_vips(lab: &Lab) -> Vec<SocketAddr> {
    lab.vips().into_iter().map(|ip| SocketAddr::new(ip, ECHO_SERVICE_PORT)).collect()
}

/// The virtual IPs with the port of the streams.
pub fn stream_vips(lab: &Lab) -> Vec<SocketAddr> {
    lab.vips().into_iter().map(|ip| SocketAddr::new(ip, streams::SERVICE_PORT)).collect()
}

/// Whether a route makes this address local in a namespace, for all ports or for some, which have a table of their own.
pub fn is_local(at: &Namespace, address: IpAddr) -> Result<bool> {
    let version = if address.is_ipv4() { "-4" } else { "-6" };
    let routes = at.run("ip", &[version, "route", "show", "table", "all", "type", "local"])?;
    Ok(routes.lines().any(|line| line.split(' ').any(|word| word == address.to_string())))
}

/// The network devices of a namespace, by name.
pub fn devices(at: &Namespace) -> Result<Vec<String>> {
    let links: Value = serde_json::from_str(&at.run("ip", &["-j", "link"])?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// How long each takeover took in a log of `--log-format json`, in order: from the first refusal of the kernel to the
/// forwarder serving, by the daemon's own clock.
pub fn takeovers(log: &str) -> Result<Vec<Duration>> {
    let (mut refused, mut took) = (None, Vec::new());
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let at = || -> Result<OffsetDateTime> {
            let stamp = event["timestamp"].as_str().with_context(|| format!("no time in {line}"))?;
            OffsetDateTime::parse(stamp, &Rfc3339).with_context(|| format!("read the time of {line}"))
        };
        match event["event"].as_str() {
            Some("rules_failed") if refused.is_none() => refused = Some(at()?),
            Some("forwarder_active") => {
                let refused = refused.take().with_context(|| format!("nothing was refused before {line}"))?;
                took.push((at()? - refused).try_into().context("the clock went back")?);
            }
            _ => {}
        }
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_begins_with_the_first_refusal() {
        let event = |second: &str, id: &str| {
            format!("{{\"timestamp\":\"2026-01-02T03:04:{second}Z\",\"event\":\"{id}\"}}\n")
        };
        let (refused, serves) = ("rules_failed", "forwarder_active");
        let twice = event("05.100000", refused) + &event("05.200000", refused) + &event("05.350000", serves);
        let log = twice.clone() + "no event\n" + &event("06.000000", "rules_recovered") + &twice;
        assert_eq!(takeovers(&log).unwrap(), [Duration::from_millis(250); 2]);
        assert!(takeovers(&event("05.350000", serves)).is_err());
    }
}
