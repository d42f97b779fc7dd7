//! Service and EndpointSlices -> [`Snapshot`]: every virtual IP and port with the backends that may serve it. Pure.
//!
//! In: a [`ClusterView`], exactly as the API published it. Out: what of it a node can be programmed with, and
//! what was rejected and why. Equal views give equal snapshots, whatever the order of slices and endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::address::{self, RejectReason};
use super::objects::{ClusterView, Endpoint, EndpointPort, EndpointSlice, Service, ServicePort};
use super::types::{Backend, Family, Vip};

/// The name of the port of the `kubernetes` Service that serves the API (kube-apiserver's `pkg/controlplane`).
pub const HTTPS: &str = "https";
/// The most backends of one virtual IP. Control planes have 1 to 9 apiservers; a transaction must fit a netlink message.
pub const MAX_BACKENDS: usize = 64;
/// The most virtual IPs times ports of the Service; `kubernetes` has 1 or 2.
pub const MAX_FRONTENDS: usize = 32;

/// What the API says of the Service, fit to be programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts the snapshots of one daemon, so that a health view can say which one it belongs to. 0: it follows from
    /// seeds and saved state, as the API has not been read yet.
    pub generation: u64,
    /// Whether there is a virtual IP at all.
    pub service: ServiceStatus,
    /// One entry for every ClusterIP times TCP port, ordered by virtual IP. Backends may be empty.
    pub frontends: Vec<Frontend>,
    /// Addresses that were left out, each once.
    pub rejected: BTreeSet<Rejection>,
}

/// Whether the Service has virtual IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// It has at least one usable ClusterIP and TCP port.
    Found,
    /// The API says that it does not exist.
    Missing,
    /// It has no ClusterIP.
    Headless,
    /// It has no TCP port or no ClusterIP that could be programmed.
    Unusable,
}

/// One virtual IP and port, and who may serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    /// Address and TCP port that clients dial.
    pub vip: Vip,
    /// The name of the Service's port; may be empty.
    pub port_name: String,
    /// Session affinity.
    pub affinity: Affinity,
    /// Backends of the same address family, ordered and each once.
    pub backends: Vec<Backend>,
}

/// `sessionAffinity` of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    /// Every connection is balanced on its own.
    #[default]
    None,
    /// All connections of one client address go to one backend.
    ClientIP,
}

/// One address that the API publishes and that a node must not be programmed with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rejection {
    /// The address as it was published, cut to 64 characters.
    pub address: String,
    /// The port as it was published, where the port is part of the reason.
    pub port: Option<i64>,
    /// Why.
    pub reason: RejectReason,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} port {port}: {}", self.address, self.reason),
            None => write!(f, "{}: {}", self.address, self.reason),
        }
    }
}

/// How strictly addresses are validated.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotOptions {
    /// Accept loopback addresses as backends. They only serve the node's own traffic.
    pub allow_loopback: bool,
}

impl Snapshot {
    /// Builds the snapshot of `view`. Never fails: what cannot be used is in [`Snapshot::rejected`].
    pub fn build(view: &ClusterView, options: SnapshotOptions, generation: u64) -> Self {
        let mut rejected = BTreeSet::new();
        let Some(service) = &view.service else {
            return Self { generation, service: ServiceStatus::Missing, frontends: Vec::new(), rejected };
        };
        let listed = cluster_ips(service);
        if listed.is_empty() {
            return Self { generation, service: ServiceStatus::Headless, frontends: Vec::new(), rejected };
        }
        let vips = usable_vips(&listed, &mut rejected);
        let ports = usable_ports(&service.spec.ports, &mut rejected);
        let filter = EndpointFilter { vips: &vips, ports: &ports, options };
        let mut found = UsableEndpoints::default();
        for slice in view.slices.values() {
            found.add_slice(slice, filter, &mut rejected);
        }
        let affinity = match service.spec.session_affinity.as_str() {
            "ClientIP" => Affinity::ClientIP,
            _ => Affinity::None,
        };
        let frontends: BTreeMap<Vip, Frontend> = vips
            .iter()
            .flat_map(|ip| ports.iter().map(move |port| (*ip, port)))
            .map(|(ip, (port, name))| {
                let vip = Vip::new(ip, *port);
                let backends = found.backends(name, Family::of(ip));
                (vip, Frontend { vip, port_name: (*name).to_owned(), affinity, backends })
            })
            .collect();
        let frontends = bounded(frontends, &mut rejected);
        let service = if frontends.is_empty() { ServiceStatus::Unusable } else { ServiceStatus::Found };
        Self { generation, service, frontends, rejected }
    }

    /// Whether it follows from the API, and not from seeds or saved state.
    pub fn is_published(&self) -> bool {
        self.generation > 0
    }

    /// Every virtual IP, without ports.
    pub fn vip_addresses(&self) -> BTreeSet<IpAddr> {
        self.frontends.iter().map(|f| f.vip.ip()).collect()
    }

    /// Those backends that serve the API: of the port `https`, or of all ports where none has that name.
    pub fn apiservers(&self) -> BTreeSet<Backend> {
        let named = self.frontends.iter().any(|f| f.port_name == HTTPS);
        let api = self.frontends.iter().filter(|f| !named || f.port_name == HTTPS);
        api.flat_map(|f| f.backends.iter().copied()).collect()
    }

    /// Every backend of every frontend, each once.
    pub fn backends(&self) -> BTreeSet<Backend> {
        self.frontends.iter().flat_map(|f| f.backends.iter().copied()).collect()
    }
}

/// Limits the number of frontends and backends, so that a broken cluster cannot make the transaction too large to send.
fn bounded(frontends: BTreeMap<Vip, Frontend>, rejected: &mut BTreeSet<Rejection>) -> Vec<Frontend> {
    let mut too_many = |address: SocketAddr| {
        let text = address.ip().to_string();
        rejected.insert(rejection(&text, Some(address.port().into()), RejectReason::TooMany));
    };
    let mut kept: Vec<Frontend> = frontends.into_values().collect();
    for frontend in kept.drain(MAX_FRONTENDS.min(kept.len())..) {
        too_many(frontend.vip);
    }
    for frontend in &mut kept {
        for backend in frontend.backends.drain(MAX_BACKENDS.min(frontend.backends.len())..) {
            too_many(backend);
        }
    }
    kept
}

/// `clusterIPs`, or `clusterIP` where the server is too old to have the former. Empty means headless.
fn cluster_ips(service: &Service) -> Vec<&str> {
    let spec = &service.spec;
    let listed: Vec<&str> = if spec.cluster_ips.is_empty() {
        vec![spec.cluster_ip.as_str()]
    } else {
        spec.cluster_ips.iter().map(String::as_str).collect()
    };
    listed.into_iter().filter(|ip| !ip.is_empty() && *ip != "None").collect()
}

fn usable_vips(listed: &[&str], rejected: &mut BTreeSet<Rejection>) -> BTreeSet<IpAddr> {
    let mut vips = BTreeSet::new();
    for text in listed {
        match address::validate_vip(text) {
            Ok(ip) => {
                vips.insert(ip);
            }
            Err(reason) => {
                rejected.insert(rejection(text, None, reason));
            }
        }
    }
    vips
}

fn usable_ports<'a>(ports: &'a [ServicePort], rejected: &mut BTreeSet<Rejection>) -> Vec<(u16, &'a str)> {
    let mut usable = Vec::new();
    for port in ports.iter().filter(|p| is_tcp(&p.protocol)) {
        match port_number(Some(port.port)) {
            Ok(number) => usable.push((number, port.name.as_str())),
            Err(reason) => {
                rejected.insert(rejection("Service port", Some(port.port), reason));
            }
        }
    }
    usable
}

fn port_number(port: Option<i64>) -> Result<u16, RejectReason> {
    match port {
        None => Err(RejectReason::NoPort),
        Some(0) => Err(RejectReason::PortZero),
        Some(number) => u16::try_from(number).map_err(|_| RejectReason::PortOutOfRange),
    }
}

fn is_tcp(protocol: &str) -> bool {
    matches!(protocol, "" | "TCP")
}

fn rejection(address: &str, port: Option<i64>, reason: RejectReason) -> Rejection {
    Rejection { address: address.chars().take(64).collect(), port, reason }
}

/// What every address is checked against.
#[derive(Clone, Copy)]
struct EndpointFilter<'a> {
    vips: &'a BTreeSet<IpAddr>,
    /// The Service's TCP ports, number and name.
    ports: &'a [(u16, &'a str)],
    options: SnapshotOptions,
}

/// Usable addresses by port name and family: those that take new connections, and those that only still serve.
#[derive(Default)]
struct UsableEndpoints {
    ready: BTreeMap<(String, Family), BTreeSet<Backend>>,
    serving: BTreeMap<(String, Family), BTreeSet<Backend>>,
}

impl UsableEndpoints {
    fn add_slice(
        &mut self,
        slice: &EndpointSlice,
        filter: EndpointFilter<'_>,
        rejected: &mut BTreeSet<Rejection>,
    ) {
        let family = match slice.address_type.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        for endpoint in &slice.endpoints {
            let Some(ready) = takes_connections(endpoint) else { continue };
            for address in &endpoint.addresses {
                match family {
                    Some(family) => {
                        self.add(address, family, &slice.ports, ready, filter, rejected);
                    }
                    None => {
                        rejected.insert(rejection(address, None, RejectReason::NotAnIpSlice));
                    }
                }
            }
        }
    }

    fn add(
        &mut self,
        text: &str,
        family: Family,
        ports: &[EndpointPort],
        ready: bool,
        filter: EndpointFilter<'_>,
        rejected: &mut BTreeSet<Rejection>,
    ) {
        let ip =
            match address::validate_backend(text, Some(family), filter.vips, filter.options.allow_loopback) {
                Ok(ip) => ip,
                Err(reason) => {
                    rejected.insert(rejection(text, None, reason));
                    return;
                }
            };
        let ports = || ports.iter().filter(|p| is_tcp(&p.protocol));
        let is_known = |port: &EndpointPort| filter.ports.iter().any(|(_, known)| *known == port.name);
        if !filter.ports.is_empty() && !ports().any(is_known) {
            let number = ports().next().and_then(|port| port.port);
            rejected.insert(rejection(text, number, RejectReason::UnknownPort));
            return;
        }
        for port in ports() {
            match port_number(port.port) {
                Ok(number) => {
                    let set = if ready { &mut self.ready } else { &mut self.serving };
                    set.entry((port.name.clone(), Family::of(ip)))
                        .or_default()
                        .insert(Backend::new(ip, number));
                }
                Err(reason) => {
                    rejected.insert(rejection(text, port.port, reason));
                }
            }
        }
    }

    /// Ready endpoints; where there are none, those that still serve while they terminate.
    fn backends(&self, name: &str, family: Family) -> Vec<Backend> {
        let key = (name.to_owned(), family);
        let set = self.ready.get(&key).or_else(|| self.serving.get(&key));
        set.into_iter().flatten().copied().collect()
    }
}

/// `Some(true)` if ready, `Some(false)` if it only still serves, `None` if it must get nothing.
fn takes_connections(endpoint: &Endpoint) -> Option<bool> {
    match (endpoint.conditions.ready, endpoint.conditions.serving) {
        (None | Some(true), _) => Some(true),
        (Some(false), Some(true)) => Some(false),
        (Some(false), _) => None,
    }
}

/// A snapshot, and when it became known.
#[derive(Clone, Debug)]
pub struct PublishedSnapshot {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// When the last byte of the event or list arrived that it follows from.
    pub received: Instant,
}

#[cfg(test)]
mod tests;
