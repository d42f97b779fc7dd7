//! Snapshot + health + last programmed state + node -> [`DesiredState`], the input of every dataplane. Pure.
//!
//! Fail-open is decided here and nowhere else: neither a view without backends nor one in which no backend answers ever
//! removes the backends that are programmed, and while no backend answers no connection is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::address::{Cidr, InterfaceName};
use super::balance::{Balance, Candidate, choose};
use super::health::{BackendHealth, FailReason, HealthState, HealthView};
use super::snapshot::{Affinity, Frontend, ServiceStatus};
use super::types::{Backend, Family, ServiceKey, Vip};

/// Everything a node is programmed with. Equal states program nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// The Service whose virtual IPs these are.
    pub service: ServiceKey,
    /// Frontends with at least one backend, ordered by virtual IP.
    pub frontends: Vec<DesiredFrontend>,
    /// What happens to source addresses.
    pub source: SourcePolicy,
    /// The forwarder has connections to the virtual IPs: rules apply to new connections only.
    pub forwarding: bool,
}

/// One virtual IP and port that is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Address and TCP port that clients dial.
    pub vip: Vip,
    /// The name of the Service's port; may be empty.
    pub port_name: String,
    /// Session affinity.
    pub affinity: Affinity,
    /// New connections are distributed among these: at least one, ordered, each once.
    pub backends: Vec<Backend>,
    /// Backends whose established flows are to be terminated; ordered, each once, none of them among `backends`.
    pub failed: Vec<Backend>,
    /// Leave a flow alone while a local route of this node owns the virtual IP.
    pub local_route_allowed: bool,
}

/// When the source address of a redirected flow is replaced by the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Masquerade {
    /// Where the source would be wrong: hairpin, host traffic with another interface's address, and clients
    /// outside the cluster CIDRs when these are given.
    #[default]
    Auto,
    /// Every pod's as well.
    Always,
    /// Never, not even where replies will not come back.
    Never,
}

/// What happens to source addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    /// The rule.
    pub masquerade: Masquerade,
    /// Ranges whose addresses stay. Empty: every pod's address stays.
    pub cluster_cidrs: Vec<Cidr>,
    /// The source address that the kernel's routes give host traffic to each backend.
    pub preferred: BTreeMap<IpAddr, PreferredSource>,
}

/// Answer of the kernel's route lookup for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreferredSource {
    /// Host traffic to the backend carries this address.
    Address(SourceAddress),
    /// The backend is an address of this node: any local source will do.
    Local,
}

/// A source address, and where it is right. A lookup by destination returns one route; routing rules and routes with several
/// next hops may send a packet over another one, where another address is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address.
    pub address: IpAddr,
    /// The interfaces of the route that it is the source of. None: it is right on every route.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The route names it, and it is not just an address of the interface: it is right for all of its next hops.
    pub named: bool,
    /// No routing rule chooses routes by more than the destination: a packet that carries another address carries a
    /// wrong one.
    pub certain: bool,
}

impl SourceAddress {
    /// One that is right on every route.
    pub fn anywhere(address: IpAddr) -> Self {
        Self { address, interfaces: BTreeSet::new(), named: true, certain: true }
    }
}

/// What the desired state depends on besides the API's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Source addresses by backend address; a backend that is absent has no known route.
    pub preferred: BTreeMap<IpAddr, PreferredSource>,
    /// Virtual IPs that another component bound to an interface (kube-proxy in IPVS mode).
    pub taken_vips: BTreeSet<IpAddr>,
}

/// What the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The Service.
    pub service: ServiceKey,
    /// `--masquerade`.
    pub masquerade: Masquerade,
    /// `--cluster-cidr`.
    pub cluster_cidrs: Vec<Cidr>,
    /// `--balance`.
    pub balance: Balance,
}

/// Why something that was programmed earlier stays although the API no longer says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum FailOpenReason {
    /// The API says that the Service does not exist.
    ServiceMissing,
    /// The Service has no ClusterIP.
    ServiceHeadless,
    /// The Service has no ClusterIP and TCP port that can be programmed.
    ServiceUnusable,
    /// No endpoint of this virtual IP and port is left.
    NoEndpoints {
        /// The frontend.
        vip: Vip,
        /// Whether earlier backends stay in place. If not, the virtual IP is not redirected.
        kept: bool,
    },
    /// Some backends of this virtual IP answer, but none is ready: those that answer are used.
    NoneReady {
        /// The frontend.
        vip: Vip,
    },
    /// No backend of this virtual IP and port answers probes: the last good ones stay, and no flow is ended.
    NoneAnswers {
        /// The frontend.
        vip: Vip,
        /// Why, if all fail for the same reason.
        #[serde(rename = "failure")]
        reason: Option<FailReason>,
    },
}

impl FailOpenReason {
    /// Whether earlier rules stay in place.
    pub fn keeps(&self) -> bool {
        !matches!(self, Self::NoEndpoints { kept: false, .. } | Self::NoneReady { .. })
    }
}

impl fmt::Display for FailOpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceMissing => {
                f.write_str("the Service does not exist; the last good rules stay in place")
            }
            Self::ServiceHeadless => {
                f.write_str("the Service has no ClusterIP; the last good rules stay in place")
            }
            Self::ServiceUnusable => f.write_str(
                "the Service has no usable ClusterIP and TCP port; the last good rules stay in place",
            ),
            Self::NoEndpoints { vip, kept: true } => {
                write!(f, "no endpoint of {vip} is published; its last good backends stay in use")
            }
            Self::NoEndpoints { vip, kept: false } => {
                write!(f, "no endpoint of {vip} is known; its connections are not redirected")
            }
            Self::NoneReady { vip } => {
                write!(f, "no API server of {vip} is ready; the ones that answer are used")
            }
            Self::NoneAnswers { vip, reason: Some(FailReason::BadCertificate) } => write!(
                f,
                "no API server of {vip} presents a certificate that this node can verify; the last good ones stay in \
                 use: check the clock and the CA file of this node"
            ),
            Self::NoneAnswers { vip, reason } => {
                write!(f, "no API server of {vip} answers probes")?;
                if let Some(reason) = reason {
                    write!(f, " ({reason})")?;
                }
                f.write_str("; the last good ones stay in use and no connection is reset: check the network of this node")
            }
        }
    }
}

impl DesiredState {
    /// Every backend that gets new connections, each once.
    pub fn backends(&self) -> BTreeSet<Backend> {
        self.frontends.iter().flat_map(|f| f.backends.iter().copied()).collect()
    }

    /// Every virtual IP and port, each once.
    pub fn vips(&self) -> BTreeSet<Vip> {
        self.frontends.iter().map(|f| f.vip).collect()
    }

    /// Every backend whose flows are to be terminated, with the virtual IPs whose connections it may have got.
    pub fn failed(&self) -> BTreeMap<Backend, Vec<Vip>> {
        let mut failed: BTreeMap<Backend, Vec<Vip>> = BTreeMap::new();
        for frontend in &self.frontends {
            for backend in &frontend.failed {
                failed.entry(*backend).or_default().push(frontend.vip);
            }
        }
        failed
    }
}

/// Computes the desired state. `last` is the one that was programmed last, if any.
pub fn compute_desired_state(
    view: &HealthView,
    last: Option<&DesiredState>,
    node: &NodeView,
    policy: &Policy,
) -> (DesiredState, Vec<FailOpenReason>) {
    let snapshot = &view.snapshot;
    let earlier = last.map_or(&[][..], |state| &state.frontends);
    let mut fail_open = Vec::new();
    let whole = match snapshot.service {
        ServiceStatus::Found => None,
        ServiceStatus::Missing => Some(FailOpenReason::ServiceMissing),
        ServiceStatus::Headless => Some(FailOpenReason::ServiceHeadless),
        ServiceStatus::Unusable => Some(FailOpenReason::ServiceUnusable),
    };
    let kept: Vec<Frontend> = match whole {
        None => Vec::new(),
        Some(_) => earlier.iter().map(without_endpoints).collect(),
    };
    let listed = if whole.is_some() { &kept } else { &snapshot.frontends };
    let mut frontends = Vec::new();
    for published in listed {
        let earlier = earlier.iter().find(|e| e.vip == published.vip);
        let selection = select(view, published, earlier, node, policy.balance);
        if published.backends.is_empty() && whole.is_none() {
            fail_open.push(FailOpenReason::NoEndpoints { vip: published.vip, kept: earlier.is_some() });
        }
        if published.backends.is_empty() && earlier.is_none() {
            continue;
        }
        fail_open.extend(selection.hold);
        frontends.push(DesiredFrontend {
            vip: published.vip,
            port_name: published.port_name.clone(),
            affinity: published.affinity,
            backends: selection.backends,
            failed: selection.failed,
            local_route_allowed: true,
        });
    }
    fail_open.splice(0..0, whole);
    (assemble(frontends, node, policy), fail_open)
}

/// What is programmed, as if it were published with its endpoints gone.
fn without_endpoints(earlier: &DesiredFrontend) -> Frontend {
    Frontend {
        vip: earlier.vip,
        port_name: earlier.port_name.clone(),
        affinity: earlier.affinity,
        backends: Vec::new(),
    }
}

fn assemble(mut frontends: Vec<DesiredFrontend>, node: &NodeView, policy: &Policy) -> DesiredState {
    for frontend in &mut frontends {
        frontend.local_route_allowed = !node.taken_vips.contains(&frontend.vip.ip());
    }
    let used: BTreeSet<IpAddr> = frontends.iter().flat_map(|f| &f.backends).map(|b| b.ip()).collect();
    let preferred = match policy.masquerade {
        Masquerade::Never => BTreeMap::new(),
        _ => {
            node.preferred.iter().filter(|(ip, _)| used.contains(ip)).map(|(k, v)| (*k, v.clone())).collect()
        }
    };
    DesiredState {
        service: policy.service.clone(),
        frontends,
        source: SourcePolicy {
            masquerade: policy.masquerade,
            cluster_cidrs: policy.cluster_cidrs.clone(),
            preferred,
        },
        forwarding: false,
    }
}

/// The choice for one frontend.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    /// They get new connections; ordered, each once. Empty only if no backend is known.
    backends: Vec<Backend>,
    /// Their flows are to be terminated; ordered, each once.
    failed: Vec<Backend>,
    /// Why the selection is not one of healthy backends.
    hold: Option<FailOpenReason>,
}

/// Chooses for `published`; `earlier` is what is programmed for it.
fn select(
    view: &HealthView,
    published: &Frontend,
    earlier: Option<&DesiredFrontend>,
    node: &NodeView,
    balance: Balance,
) -> Selection {
    let earlier_backends = earlier.map_or(&[][..], |e| e.backends.as_slice());
    let removed = removed(view, published, earlier);
    let pool = if published.backends.is_empty() { &removed } else { &published.backends };
    let tier = |list: &[Backend], usable: fn(Option<&BackendHealth>) -> bool| -> Vec<Backend> {
        list.iter().copied().filter(|b| usable(view.backends.get(b))).collect()
    };
    let draining = |h: Option<&BackendHealth>| h.is_some_and(|h| h.state == HealthState::Draining);
    let tiers = [
        (up(view, pool, earlier), false),
        (tier(pool, |h| h.is_none_or(|h| h.state == HealthState::Unknown && h.failure.is_none())), false),
        (tier(pool, |h| h.is_some_and(|h| h.state == HealthState::Unknown)), false),
        (tier(pool, draining), true),
        (tier(&removed, draining), true),
        (tier(pool, |h| h.is_some_and(|h| h.answering)), true),
    ];
    let vip = published.vip;
    let Some((candidates, second_best)) = tiers.into_iter().find(|(tier, _)| !tier.is_empty()) else {
        let last: Vec<Backend> = earlier_backends.iter().copied().filter(|b| pool.contains(b)).collect();
        let backends = if last.is_empty() { pool.clone() } else { last };
        let hold =
            (!backends.is_empty()).then(|| FailOpenReason::NoneAnswers { vip, reason: reason(view, pool) });
        return Selection { backends, failed: Vec::new(), hold };
    };
    let hold = if candidates.iter().all(|b| view.backends.get(b).is_some_and(|h| h.failure.is_some())) {
        Some(FailOpenReason::NoneAnswers { vip, reason: reason(view, &candidates) })
    } else {
        second_best.then_some(FailOpenReason::NoneReady { vip })
    };
    let backends = balanced(view, &candidates, earlier_backends, node, balance);
    let ending = |b: &Backend| view.backends.get(b).is_some_and(|h| h.end_flows) && !candidates.contains(b);
    // Termination that began while another backend answered stops as well.
    let open = matches!(hold, Some(FailOpenReason::NoneAnswers { .. }));
    let failed: BTreeSet<Backend> =
        pool.iter().chain(&removed).copied().filter(|b| !open && ending(b)).collect();
    Selection { backends, failed: failed.into_iter().collect(), hold }
}

/// Those that answer in time and are ready, and with them those that answer late, unless at least half of the
/// published ones, rounded up, answer in time: so overload of one does not run through all. One that was not probed
/// yet waits for that, so that an unreachable endpoint costs no connection; those that are programmed already are
/// used until a probe fails, and at the start all do.
fn up(view: &HealthView, pool: &[Backend], earlier: Option<&DesiredFrontend>) -> Vec<Backend> {
    let is =
        |backend: &Backend, state: HealthState| view.backends.get(backend).is_some_and(|h| h.state == state);
    let healthy = pool.iter().filter(|backend| is(backend, HealthState::Healthy)).count();
    let enough = healthy >= pool.len().div_ceil(2);
    let usable = |backend: &Backend| match view.backends.get(backend) {
        Some(health) if health.state == HealthState::Healthy => true,
        Some(health) if health.state == HealthState::Late => !enough,
        Some(health) if health.state != HealthState::Unknown || health.failure.is_some() => false,
        _ => earlier.is_none_or(|earlier| earlier.backends.contains(backend)),
    };
    pool.iter().copied().filter(usable).collect()
}

/// Backends that are no longer published for this frontend and are probed on: those that were programmed for it, and
/// others of its family and ports.
fn removed(view: &HealthView, published: &Frontend, earlier: Option<&DesiredFrontend>) -> Vec<Backend> {
    let earlier = earlier.map_or(&[][..], |e| e.backends.as_slice());
    let ports: BTreeSet<u16> = published.backends.iter().chain(earlier).map(|b| b.port()).collect();
    let family = Family::of(published.vip.ip());
    let related = view
        .backends
        .keys()
        .filter(|b| Family::of(b.ip()) == family && ports.contains(&b.port()))
        .chain(if published.backends.is_empty() { earlier } else { &[] });
    let all: BTreeSet<Backend> = related.copied().filter(|b| !published.backends.contains(b)).collect();
    all.into_iter().collect()
}

fn balanced(
    view: &HealthView,
    backends: &[Backend],
    before: &[Backend],
    node: &NodeView,
    balance: Balance,
) -> Vec<Backend> {
    let candidates: Vec<Candidate> = backends
        .iter()
        .map(|backend| Candidate {
            backend: *backend,
            local: node.preferred.get(&backend.ip()) == Some(&PreferredSource::Local),
            round_trip: view.backends.get(backend).and_then(|h| h.round_trip),
        })
        .collect();
    choose(balance, &candidates, before)
}

/// The reason that all share; `None` if they differ or have none.
fn reason(view: &HealthView, backends: &[Backend]) -> Option<crate::model::health::FailReason> {
    let reasons: BTreeSet<_> =
        backends.iter().map(|b| view.backends.get(b).and_then(|health| health.failure)).collect();
    if reasons.len() == 1 { reasons.into_iter().next().flatten() } else { None }
}

#[cfg(test)]
mod tests;
